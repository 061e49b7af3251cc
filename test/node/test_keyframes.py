# SPDX-License-Identifier: Apache-2.0
"""Keyframes by parallax in the node: a camera that stands still, and one that walks slowly."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import Camera, Mapper, Orbit, Peer, balanced, raw_image, stamp_of, to_ns
from nav_msgs.msg import Odometry
from sensor_msgs.msg import PointCloud2

Start = Callable[..., Mapper]
SECOND_NS = 10**9


@pytest.mark.parametrize('moves', [False, True])
def test_frames_between_keyframes_have_a_pose_and_the_map_begins_at_once(
        moves: bool, peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    poses = peer.listen(PoseWithCovarianceStamped, '/mapper/pose')
    clouds = peer.listen(PointCloud2, '/mapper/points')
    odometry = peer.listen(Odometry, '/mapper/odometry')
    start(mode='replay', **{'keyframes.selection': 'parallax'})
    peer.statuses()
    rng = np.random.default_rng(0)
    for index in range(60):
        # Each view of the orbit five times, or the first one for ever.
        rgb = orbit.rgb[index // 5 if moves else 0]
        noise = np.clip(rgb + 3.0 * rng.standard_normal(rgb.shape), 0, 255).astype(np.uint8)
        camera.send(raw_image(noise, stamp_of(index)))
    status = peer.until_settled(60)
    assert all(balanced(one) for one in peer.statuses())
    assert (status.frames_dropped, status.frames_failed, status.frames_blind) == (0, 0, 0)
    first_ns = min(to_ns(one.header.stamp) for one in poses)
    assert first_ns - stamp_of(0) < 2 * SECOND_NS
    begun = round((first_ns - stamp_of(0)) / (stamp_of(1) - stamp_of(0)))
    # The first keyframe's own pose comes with the second keyframe.
    peer.until(lambda: len({to_ns(one.header.stamp) for one in poses} - {stamp_of(0)}) >= 60 - max(
        begun, 10), 'a pose for every frame')
    assert all(np.diag(np.reshape(one.pose.covariance, (6, 6))).min() > 0.0 for one in poses)
    peer.until(lambda: clouds, 'a cloud')
    peer.until(lambda: odometry, 'an odometry')
    if moves:
        assert 3 <= status.frames_processed <= 15
    else:
        assert (status.frames_processed, status.frames_skipped) == (2, 58)
        assert status.keyframes == 1 and status.voxels > 1000 and status.phase == 'tracking'
