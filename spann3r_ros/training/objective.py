# SPDX-License-Identifier: Apache-2.0
"""What the bundled model is trained on: regression in true units and memory supervision."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spann3r_ros.model.heads import DensePrediction

from .unroll import Unrolled


@dataclass(frozen=True)
class Objective:
    """Scalar losses of a batch; `total` is the one to minimise, the rest is for the log."""

    total: Tensor
    point_error: Tensor
    last_error: Tensor
    attention_loss: Tensor


def sequence_objective(output: Unrolled, points: Tensor, patch_size: int, alpha: float,
                       attention_weight: float, map_points: Tensor | None = None) -> Objective:
    """Score predictions against true points [batch, frames, height, width, 3].

    `points` are in the first camera's frame, `map_points` in the frame of the map that the
    memory was told; None: they are the same.

    The regression is the paper's confidence loss on distances divided by the sequence's true
    mean distance, not by the predicted one: the network learns the generator's scale.
    """
    scale = points.norm(dim=-1).mean(dim=(1, 2, 3))  # [batch]
    losses, errors = [], []
    map_points = points if map_points is None else map_points
    for t, (reference, target) in enumerate(zip(output.reference, output.target, strict=True)):
        true = points if t == 0 else map_points
        for prediction, truth in ((reference, true[:, t]), (target, true[:, t + 1])):
            error = (prediction.points - truth).norm(dim=-1) / scale[:, None, None]
            losses.append(_confidence_loss(error, prediction, alpha))
            errors.append(error.detach().mean())
    supervision = memory_supervision(output.attention, points, patch_size)
    total = torch.stack(losses).mean() + attention_weight * supervision
    return Objective(total, torch.stack(errors[::2]).mean(), errors[-1], supervision.detach())


def _confidence_loss(error: Tensor, prediction: DensePrediction, alpha: float) -> Tensor:
    log_confidence = functional.softplus(prediction.logit)  # log(1 + exp(logit)) = log C
    return (log_confidence.exp() * error - alpha * log_confidence).mean()


def memory_supervision(attention: list[Tensor], points: Tensor, patch_size: int,
                       radius: float = 0.75) -> Tensor:
    """Return the mean negative log attention that falls on patches of the same place.

    A memory patch is the same place when its centre lies within `radius` patch footprints of
    the query patch's centre in the world. Queries that see nothing known are left out.
    """
    if not attention:
        return points.new_zeros(())
    half = patch_size // 2
    centres = points[:, :, half::patch_size, half::patch_size]  # [batch, frames, rows, cols, 3]
    footprint = _footprint(points[:, :, half::patch_size], half, patch_size)
    centres, footprint = centres.flatten(2, 3), footprint.flatten(2)  # [batch, frames, tokens..]
    losses = []
    for t, weights in enumerate(attention, start=1):
        known = centres[:, :t].flatten(1, 2)  # [batch, t * tokens, 3]
        near = torch.cdist(centres[:, t], known) < radius * footprint[:, t, :, None]
        hit = (weights * near).sum(dim=-1).clamp(min=1e-6).log()
        seen = near.any(dim=-1)
        losses.append(-(hit * seen).sum() / seen.sum().clamp(min=1))
    return torch.stack(losses).mean()


def _footprint(rows: Tensor, half: int, patch_size: int) -> Tensor:
    """Return the width in metres of each patch [batch, frames, rows, columns].

    The median-like minimum of left and right halves keeps depth edges from widening a patch.
    """
    centre = rows[..., half::patch_size, :]
    left = rows[..., 0::patch_size, :]
    right = rows[..., patch_size - 1::patch_size, :]
    to_left = (centre - left).norm(dim=-1) / half
    to_right = (centre - right).norm(dim=-1) / (patch_size - 1 - half)
    return torch.minimum(to_left, to_right) * patch_size
