# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.spann3r.unroll import Unrolled
from spann3r_ros.training.losses import (
    confidence_alpha,
    confidence_loss,
    normalisation_factor,
    paper_losses,
    scale_loss,
)

BATCH, FRAMES, HEIGHT, WIDTH = 2, 3, 4, 5


def random_truth() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(BATCH, FRAMES, HEIGHT, WIDTH, 3, generator=generator)
    return points, torch.rand(BATCH, FRAMES, HEIGHT, WIDTH, generator=generator) > 0.3


def perfect_output(points: Tensor, gain: float = 1.0, logit: float = 0.0) -> Unrolled:
    def predict(frame: int) -> DensePrediction:
        return DensePrediction(gain * points[:, frame], torch.full(points.shape[:1]
                                                                   + points.shape[2:4], logit))

    return Unrolled([predict(frame) for frame in range(FRAMES - 1)],
                    [predict(frame) for frame in range(1, FRAMES)], [])


def test_factor_is_the_mean_distance_of_valid_points() -> None:
    points, valid = random_truth()
    expected = torch.stack([item.norm(dim=-1)[mask].mean()
                            for item, mask in zip(points, valid, strict=True)])
    torch.testing.assert_close(normalisation_factor(points, valid), expected)
    share = valid.sum(dim=(1, 2, 3)) / valid.sum()
    torch.testing.assert_close(normalisation_factor(points, valid, as_released=True),
                               expected * share)


def test_invalid_pixels_have_no_influence() -> None:
    points, valid = random_truth()
    wrong = torch.where(valid[..., None], points, 1e6)
    for as_released in (False, True):
        losses = [paper_losses(perfect_output(item, 1.2), points, valid, 0.4, as_released)
                  for item in (points, wrong)]
        torch.testing.assert_close(losses[0].confidence, losses[1].confidence)
        torch.testing.assert_close(losses[0].scale, losses[1].scale)


def test_perfect_prediction_at_any_smaller_scale_costs_the_confidence_term_only() -> None:
    points, valid = random_truth()
    for gain in (1.0, 0.3):
        losses = paper_losses(perfect_output(points, gain, logit=1.0), points, valid, alpha=0.4)
        assert float(losses.confidence) == pytest.approx(-0.8 * math.log1p(math.e), rel=1e-4)
        assert float(losses.scale) == pytest.approx(0.0, abs=1e-6)


def test_larger_scale_than_the_truth_costs_the_excess() -> None:
    predicted, truth = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 5.0])
    assert float(scale_loss(predicted, truth)) == pytest.approx(0.5)
    # As released: the sample that exceeds, against both true factors: (1 + 2) / 2.
    assert float(scale_loss(predicted, truth, as_released=True)) == pytest.approx(1.5)
    for as_released in (False, True):
        assert float(scale_loss(truth, truth, as_released)) == 0.0


def test_single_sequence_has_the_same_losses_in_paper_and_released_code() -> None:
    points, valid = (item[:1] for item in random_truth())
    paper, released = (paper_losses(perfect_output(points, 1.5), points + 0.1, valid, 0.4, flag)
                       for flag in (False, True))
    torch.testing.assert_close(paper.confidence, released.confidence)
    torch.testing.assert_close(paper.scale, released.scale)


def test_confidence_weighs_errors() -> None:
    truth = torch.zeros(1, 1, 1, 2, 3)
    predicted = truth.clone()
    predicted[..., 0, 0] = 2.0
    confidence = torch.tensor([[[[3.0, 5.0]]]])
    loss = confidence_loss(predicted, truth, confidence, torch.ones(1, 1, 1, 2) > 0, alpha=0.4)
    expected = 2.0 * (3.0 * 2.0 - 0.4 * math.log(3.0) - 0.4 * math.log(5.0)) / 2.0
    assert float(loss) == pytest.approx(expected)


def test_gradients_reach_every_map_and_are_finite() -> None:
    points, valid = random_truth()
    valid[:, 1] = False  # a map without a valid pixel
    output = perfect_output(points, 1.3)
    leaves = [item for side in (output.reference, output.target) for prediction in side
              for item in (prediction.points, prediction.logit)]
    for item in leaves:
        item.requires_grad_()
    losses = paper_losses(output, points, valid, 0.4)
    (losses.confidence + losses.scale).backward()
    assert all(item.grad.isfinite().all() for item in leaves)
    for prediction, seen in ((output.reference[0], True), (output.reference[1], False),
                             (output.target[0], False), (output.target[1], True)):
        assert bool((prediction.logit.grad != 0.0).any()) is seen


@pytest.mark.parametrize('progress, alpha', [(0.0, 0.4), (0.5, 0.4), (0.75, 0.3), (1.0, 0.2)])
def test_alpha_falls_in_the_second_half(progress: float, alpha: float) -> None:
    assert confidence_alpha(progress) == pytest.approx(alpha)
