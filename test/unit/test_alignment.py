# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.evaluation.measures.alignment import align_by_medians, lower_median
from spann3r_ros.evaluation.measures.metrics import normal_consistency


def test_scaled_and_shifted_copy_falls_onto_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 8, 9, 3)) + [0.0, 0.0, 5.0]
    valid = rng.random((3, 8, 9)) > 0.2
    predicted = (truth - [0.0, 0.0, 1.5]) * 0.1
    outliers = np.where(valid[..., None], predicted, 1e4)
    aligned = align_by_medians(outliers, truth, valid).apply(predicted)
    np.testing.assert_allclose(aligned, truth, atol=1e-9)


def test_scale_of_a_point_like_prediction_is_bounded() -> None:
    truth = np.random.default_rng(1).normal(size=(40, 3))
    alignment = align_by_medians(np.zeros((40, 3)), truth, np.ones(40, bool))
    assert alignment.scale == pytest.approx(1e3 * alignment.truth.scale)


@pytest.mark.parametrize('values, expected', [([3.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 2.0, 3.0], 2.0)])
def test_median_of_an_even_number_is_the_lower_middle(
        values: list[float], expected: float) -> None:
    assert lower_median(np.array(values)) == expected


def test_shapes_and_masks_that_cannot_be_aligned_are_refused() -> None:
    points = np.ones((4, 5, 3))
    with pytest.raises(ValueError, match=r'got \(4, 5, 3\), \(4, 4, 3\), \(4, 5\)'):
        align_by_medians(points, points[:, :4], np.ones((4, 5), bool))
    with pytest.raises(ValueError, match='at least one valid point'):
        align_by_medians(points, points, np.zeros((4, 5), bool))


def test_normals_agree_whatever_their_sign() -> None:
    source = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    normals = np.eye(3)
    turned = np.array([[-1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.0, 1.0, 0.0]])
    consistency = normal_consistency(source, source + 0.1, normals, turned)
    assert consistency.mean == pytest.approx((1.0 + 0.6 + 0.0) / 3.0)
    assert consistency.median == pytest.approx(0.6)
