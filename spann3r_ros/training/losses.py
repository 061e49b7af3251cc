# SPDX-License-Identifier: Apache-2.0
"""The paper's losses: confidence-weighted regression and a bound on the predicted scale.

Both normalise pointmaps by their mean distance from the origin. The released training code
differs from the paper for batches of more than one sequence; `as_released` follows the code.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spann3r_ros.networks.trainable import Unrolled


@dataclass(frozen=True)
class PaperLosses:
    """Scalars; the paper minimises their sum."""

    confidence: Tensor
    scale: Tensor


def normalisation_factor(points: Tensor, valid: Tensor, as_released: bool = False) -> Tensor:
    """Return each sequence's mean distance [batch] of its valid points from the origin.

    `points` [batch, frames, height, width, 3], `valid` [batch, frames, height, width] bool.
    As released, the sum over a sequence is divided by the valid pixels of the whole batch.
    """
    distance = torch.where(valid, points.norm(dim=-1), 0.0).sum(dim=(1, 2, 3))
    count = valid.sum() if as_released else valid.sum(dim=(1, 2, 3))
    return (distance / count.clamp(min=1)).clamp(min=1e-8)


def confidence_loss(predicted: Tensor, truth: Tensor, confidence: Tensor, valid: Tensor,
                    alpha: float) -> Tensor:
    """Return the mean over maps of twice each map's mean of C * error - alpha * log C.

    `predicted` and `truth` [batch, maps, height, width, 3] are normalised, `confidence`
    [batch, maps, height, width] is the network's raw C > 1; one mean runs over a whole batch's
    valid pixels. A map without any counts as zero.
    """
    error = (predicted - truth).norm(dim=-1)
    loss = torch.where(valid, confidence * error - alpha * confidence.log(), 0.0)
    per_map = loss.sum(dim=(0, 2, 3)) / valid.sum(dim=(0, 2, 3)).clamp(min=1)  # [maps]
    return 2.0 * per_map.mean()


def scale_loss(predicted: Tensor, truth: Tensor, as_released: bool = False) -> Tensor:
    """Return the mean excess of the predicted factors [batch] over the true ones [batch].

    As released, the mean is over the exceeding sequences, each compared with every true factor.
    """
    if not as_released:
        return (predicted - truth).clamp(min=0.0).mean()
    exceeding = predicted[predicted > truth]
    if len(exceeding) == 0:
        return predicted.new_zeros(())
    return (exceeding[:, None] - truth).abs().mean()


def paper_losses(output: Unrolled, points: Tensor, valid: Tensor, alpha: float,
                 as_released: bool = False) -> PaperLosses:
    """Return the losses of a sequence's maps; true points [batch, frames, height, width, 3].

    True points are in the first camera's frame; `valid` [batch, frames, height, width] is bool.
    """
    reference, target = (torch.stack([item.points for item in side], dim=1)
                         for side in (output.reference, output.target))
    predicted_factor = normalisation_factor(torch.cat((reference, target[:, -1:]), dim=1), valid,
                                            as_released)
    true_factor = normalisation_factor(points, valid, as_released)
    # Reference maps are of all frames but the last, target maps of all but the first.
    predicted = torch.cat((reference, target), dim=1) / _per_sequence(predicted_factor)
    truth = torch.cat((points[:, :-1], points[:, 1:]), dim=1) / _per_sequence(true_factor)
    mask = torch.cat((valid[:, :-1], valid[:, 1:]), dim=1)
    logits = torch.stack([item.logit for item in (*output.reference, *output.target)], dim=1)
    return PaperLosses(confidence_loss(predicted, truth, 1.0 + logits.exp(), mask, alpha),
                       scale_loss(predicted_factor, true_factor, as_released))


def confidence_alpha(progress: float) -> float:
    """Return the paper's alpha at a progress in [0, 1]: 0.4, in the second half falling to 0.2."""
    return 0.4 - 0.2 * max(0.0, 2.0 * progress - 1.0)


def _per_sequence(factor: Tensor) -> Tensor:
    return factor[:, None, None, None, None]
