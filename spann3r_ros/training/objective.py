# SPDX-License-Identifier: Apache-2.0
"""The objectives of a run: the paper's losses, or those of the bundled model.

The latter regress points at the true scale and supervise the attention of memory reads.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.trainable import Unrolled

from .losses import normalisation_factor, paper_losses


@dataclass(frozen=True)
class Objective:
    """Scalars of a batch; `total` is minimised, the others are logged."""

    total: Tensor
    point_error: Tensor
    last_error: Tensor
    attention_loss: Tensor


def sequence_objective(output: Unrolled, points: Tensor, valid: Tensor, patch_size: int,
                       alpha: float, attention_weight: float, plain_weight: float = 0.0,
                       map_points: Tensor | None = None) -> Objective:
    """Score predictions against true points [batch, frames, height, width, 3] where `valid`.

    `points` are in the first camera's frame, `map_points` in the frame of the stored map
    (`StoredPoints`); None: both are the same.

    The regression is the paper's confidence loss on distances divided by the sequence's true
    mean distance, not by the predicted one: the network learns the scale of the data. With
    `plain_weight` above 0 the error itself is minimised, with this weight, and the confidence
    loss only trains the confidence.
    """
    scale = normalisation_factor(points, valid)  # [batch]
    losses, errors = [], []
    map_points = points if map_points is None else map_points
    for t, (reference, target) in enumerate(zip(output.reference, output.target, strict=True)):
        true = points if t == 0 else map_points
        for prediction, truth, seen in ((reference, true[:, t], valid[:, t]),
                                        (target, true[:, t + 1], valid[:, t + 1])):
            error = (prediction.points - truth).norm(dim=-1) / scale[:, None, None]
            if plain_weight:
                losses.append(_mean(plain_weight * error, seen)
                              + _confidence_loss(error.detach(), prediction, seen, alpha))
            else:
                losses.append(_confidence_loss(error, prediction, seen, alpha))
            errors.append(_mean(error.detach(), seen))
    supervision = memory_supervision(output.attention, points, valid, patch_size)
    total = torch.stack(losses).mean() + attention_weight * supervision
    return Objective(total, torch.stack(errors[::2]).mean(), errors[-1], supervision.detach())


def paper_objective(output: Unrolled, points: Tensor, valid: Tensor, alpha: float,
                    as_released: bool = False) -> Objective:
    """Score predictions by the paper's losses, or those of its released code; see `losses`.

    The logged errors are of points divided by their mean distance, predicted and true.
    """
    losses = paper_losses(output, points, valid, alpha, as_released)
    with torch.no_grad():
        maps = [*(item.points for item in output.reference), output.target[-1].points]
        predicted = torch.stack(maps, dim=1)
        factors = [normalisation_factor(item, valid)[:, None, None, None, None]
                   for item in (predicted, points)]
        error = (predicted / factors[0] - points / factors[1]).norm(dim=-1)
        mean, last = _mean(error, valid), _mean(error[:, -1], valid[:, -1])
    return Objective(losses.confidence + losses.scale, mean, last, points.new_zeros(()))


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def _confidence_loss(error: Tensor, prediction: DensePrediction, valid: Tensor,
                     alpha: float) -> Tensor:
    log_confidence = functional.softplus(prediction.logit)  # log(1 + exp(logit)) = log C
    return _mean(log_confidence.exp() * error - alpha * log_confidence, valid)


def memory_supervision(attention: list[Tensor], points: Tensor, valid: Tensor, patch_size: int,
                       radius: float = 0.75) -> Tensor:
    """Return the mean negative log of the attention on memory patches of the same place.

    A memory patch is of the same place when its true centre is within `radius` patch footprints
    of the query patch's. Queries without such a patch are left out, and patches without a true
    point at their centre, their left or their right edge.
    """
    if not attention:
        return points.new_zeros(())
    half = patch_size // 2
    rows, measured = points[:, :, half::patch_size], valid[:, :, half::patch_size]
    centres = rows[:, :, :, half::patch_size].flatten(2, 3)  # [batch, frames, tokens, 3]
    footprint = _footprint(rows, half, patch_size).flatten(2)
    usable = (measured[..., half::patch_size] & measured[..., 0::patch_size]
              & measured[..., patch_size - 1::patch_size]).flatten(2)
    losses = []
    for t, weights in enumerate(attention, start=1):
        stored = centres[:, :t].flatten(1, 2)  # [batch, t * tokens, 3]
        near = torch.cdist(centres[:, t], stored) < radius * footprint[:, t, :, None]
        near &= usable[:, :t].flatten(1, 2)[:, None] & usable[:, t, :, None]
        log_attention = (weights * near).sum(dim=-1).clamp(min=1e-6).log()
        seen = near.any(dim=-1)
        losses.append(-(log_attention * seen).sum() / seen.sum().clamp(min=1))
    return torch.stack(losses).mean()


def _footprint(rows: Tensor, half: int, patch_size: int) -> Tensor:
    """Return the width in metres of each patch [batch, frames, rows, columns].

    It is twice the narrower half, so that a depth edge within a patch does not widen it.
    """
    centre = rows[..., half::patch_size, :]
    left = rows[..., 0::patch_size, :]
    right = rows[..., patch_size - 1::patch_size, :]
    to_left = (centre - left).norm(dim=-1) / half
    to_right = (centre - right).norm(dim=-1) / (patch_size - 1 - half)
    return torch.minimum(to_left, to_right) * patch_size
