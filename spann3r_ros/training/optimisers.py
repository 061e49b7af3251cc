# SPDX-License-Identifier: Apache-2.0
"""The optimisers of a run: AdamW, and Muon, momentum whose update is orthogonalised."""
from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch import distributed as dist

from .training_config import TrainingConfig

BETAS = (0.9, 0.95)
# Quintic Newton-Schulz iteration that drives singular values towards one (Jordan et al., 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)



def build_optimisers(model: nn.Module, config: TrainingConfig,
                     share: tuple[int, int]) -> tuple[optim.Optimizer, ...]:
    """Return the optimisers of the weights that are not frozen; `peak_lr` of a group is its rate.

    `muon` is Muon for hidden matrices and AdamW without weight decay for the rest; `adamw` has
    weight decay for parameters of two dimensions or more, as in the paper. `share` is (index,
    count) of the processes, for Muon.
    """
    hidden, rest = config.trainable.split_parameters(model)
    made: list[optim.Optimizer] = []
    if config.optimiser == 'adamw':
        every = [*hidden, *rest]
        hidden = []
        rest = [{'params': [item for item in every if item.ndim > 1],
                 'weight_decay': config.weight_decay},
                {'params': [item for item in every if item.ndim <= 1]}]
    if hidden:
        made.append(Muon(hidden, lr=config.muon_lr, weight_decay=config.weight_decay,
                         share=share))
    if rest:
        made.append(optim.AdamW(rest, lr=config.adam_lr, betas=BETAS, weight_decay=0.0))
    for optimiser in made:
        for group in optimiser.param_groups:
            group['peak_lr'] = group['lr']
    return tuple(made)


def restore(optimiser: optim.Optimizer, values: dict[str, Any]) -> None:
    """Load an optimiser's momenta; keep the learning rates that it was built with."""
    built = [{name: value for name, value in group.items() if name != 'params'}
             for group in optimiser.param_groups]
    optimiser.load_state_dict(values)
    for group, kept in zip(optimiser.param_groups, built, strict=True):
        group.update(kept)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Return approximately the nearest semi-orthogonal matrices of [count, rows, columns]."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon in float32; torch's own uses bfloat16, which is slow on CPUs that emulate it.

    The update is scaled to the root mean square of an Adam update, so that learning rates are
    comparable. Processes with equal gradients split the work: `share` is (index, count).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95,
                 weight_decay: float = 0.0, share: tuple[int, int] = (0, 1)) -> None:
        super().__init__(params, {'lr': lr, 'momentum': momentum, 'weight_decay': weight_decay})
        self._index, self._count = share

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Apply one update from the current gradients."""
        for group in self.param_groups:
            stacks: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group['params']:
                if parameter.grad is not None:
                    stacks[parameter.shape].append(parameter)
            for shape, parameters in stacks.items():
                updates = self._updates(parameters, group['momentum'])
                scale = 0.2 * math.sqrt(max(shape))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1.0 - group['lr'] * group['weight_decay'])
                    parameter.add_(update, alpha=-group['lr'] * scale)

    def _updates(self, parameters: list[Tensor], momentum: float) -> Tensor:
        directions = torch.stack([self._direction(item, momentum) for item in parameters])
        if self._count == 1:
            return orthogonalise(directions)
        mine = slice(self._index, None, self._count)
        updates = torch.zeros_like(directions)
        if len(directions[mine]):
            updates[mine] = orthogonalise(directions[mine])
        dist.all_reduce(updates)
        return updates

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if 'momentum' not in state:
            state['momentum'] = torch.zeros_like(parameter)
        state['momentum'].lerp_(parameter.grad, 1.0 - momentum)
        return parameter.grad.lerp(state['momentum'], momentum)
