# SPDX-License-Identifier: Apache-2.0
"""A recorded walk in many fragments, each with a scale and errors of its own."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from office_walk import OfficeErrors, OfficeNetwork, OfficeWalk, office_walk
from synthetic import every_frame

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, similarity_scale
from spann3r_ros.core.types import FrameError
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import FragmentConfig, MapperConfig

LENGTH_M = 30.6


def walked(walk: OfficeWalk, errors: OfficeErrors,
           max_keyframes: int) -> tuple[Mapper, np.ndarray]:
    """Return the mapper after the walk, and the errors of its path in metres [n, 3]."""
    network = OfficeNetwork(walk, errors)
    mapper = Mapper(network, every_frame(MapperConfig(
        fragments=FragmentConfig(max_keyframes=max_keyframes))))
    frames = walk.frames()
    for frame in frames:
        mapper.process(frame)
    mapper.flush()
    assert [one.stamp_ns for one in mapper.trajectory] == [one.stamp_ns for one in frames]
    found = np.array([one.world_from_camera[:3, 3] for one in mapper.trajectory])
    true = (MAP_FROM_OPTICAL @ invert(walk.poses[0]) @ walk.poses)[:, :3, 3]
    return mapper, found / network.sequence_scale(0) - true


def test_a_chain_of_twenty_fragments_hardly_drifts() -> None:
    errors = OfficeErrors(scale_spread=2.0, warp=0.05, noise=0.02, outliers=0.1)
    mapper, error = walked(office_walk(), errors, 19)
    status, atlas = mapper.status(), mapper._state.atlas
    assert (status.fragments, status.fragments_unconnected) == (20, 0)
    assert [(one.first, one.second) for one in atlas.constraints] == [
        (n, n + 1) for n in range(19)]
    assert np.linalg.norm(error[-1]) <= 0.03 * LENGTH_M
    assert np.sqrt(np.mean(np.sum(error**2, axis=1))) <= 0.01 * LENGTH_M
    scales = [similarity_scale(one.fragment_from_sequence) for one in atlas.fragments.values()]
    assert max(scales) / min(scales) > 1.5


def test_images_are_recognised_after_jpeg_and_at_another_exposure() -> None:
    walk = office_walk()
    for index in range(0, len(walk.images), 31):
        (frame,) = walk.frames([index], gain=0.7)
        decoded = cv2.imdecode(cv2.imencode('.jpg', frame.rgb)[1], cv2.IMREAD_COLOR)
        assert walk.recognise(decoded) == index
    with pytest.raises(FrameError, match='one of the walk'):
        walk.recognise(walk.images[0][::-1])
