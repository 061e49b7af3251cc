# SPDX-License-Identifier: Apache-2.0
"""Services for a new fragment and for a pause."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import Camera, Mapper, Orbit, Peer, stamp_of, to_ns
from nav_msgs.msg import Path

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert

Start = Callable[..., Mapper]


def truth(orbit: Orbit, index: int) -> np.ndarray:
    return (MAP_FROM_OPTICAL @ invert(orbit.poses[0]) @ orbit.poses[index])[:3, 3]


def places(path: Path) -> dict[int, np.ndarray]:
    return {to_ns(item.header.stamp): np.array([item.pose.position.x, item.pose.position.y,
                                                item.pose.position.z])
            for item in path.poses}


def test_a_new_fragment_continues_the_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    paths = peer.listen(Path, '/mapper/path', latched=True)
    start({'stretch': 1.8}, mode='replay', map_publish_period_sec=0.0)
    camera.send(*(orbit.image(index) for index in range(6)))
    before = peer.until_settled(6)
    answer = peer.trigger('/mapper/new_fragment')
    assert answer.success and 'fragment 1' in answer.message
    camera.send(*(orbit.image(index) for index in range(6, 12)))
    after = peer.until_settled(12)
    assert (after.frames_processed, after.frames_failed) == (12, 0)
    assert (after.fragment_id, after.resets) == (1, before.resets + 1)
    assert after.voxels > before.voxels
    peer.until(lambda: paths and len(paths[-1].poses) == 11, 'the path')
    for stamp_ns, place in places(paths[-1]).items():
        index = round((stamp_ns - stamp_of(0)) / (stamp_of(1) - stamp_of(0)))
        assert np.linalg.norm(place - truth(orbit, index)) < 0.01


def test_a_paused_node_skips_images_and_goes_on(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(3)))
    peer.until_settled(3)
    assert peer.set_enabled(False).success
    camera.send(*(orbit.image(index) for index in range(3, 6)))
    paused = peer.until_settled(6)
    assert (paused.state, paused.frames_skipped) == ('paused', 3)
    assert peer.change_state('deactivate')
    assert peer.change_state('activate')
    camera.send(orbit.image(6))
    assert peer.until_settled(7).frames_skipped == 4
    assert peer.set_enabled(True).success
    camera.send(*(orbit.image(index) for index in range(7, 9)))
    running = peer.until_settled(9)
    assert (running.state, running.frames_processed) == ('active', 5)


def test_covariance_of_poses_grows_where_pointmaps_are_less_exact(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    poses = peer.listen(PoseWithCovarianceStamped, '/mapper/pose')
    start({'noise': 0.05, 'noise_from': 10, 'noise_before': 0.001}, mode='replay')
    camera.send(*(orbit.image(index) for index in range(20)))
    peer.until_settled(20)
    peer.until(lambda: len(poses) == 20, 'poses')
    deviations = []
    for pose in poses:
        covariance = np.array(pose.pose.covariance).reshape(6, 6)
        np.testing.assert_allclose(covariance, covariance.T)
        spread = np.sqrt(np.linalg.eigvalsh(covariance))
        assert 1e-4 < spread.min() and spread.max() < 0.2
        deviations.append(np.sqrt([covariance[:3, :3].trace(), covariance[3:, 3:].trace()]))
    # The very first poses have no path before them.
    clean, noisy = np.array(deviations[4:10]), np.array(deviations[14:])
    assert (noisy.min(axis=0) > 1.5 * clean.max(axis=0)).all()


def test_each_service_counts_as_one_reset(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(3)))
    assert peer.until_settled(3).resets == 0
    assert peer.trigger('/mapper/save_map').success
    counts = []
    for count, service in enumerate(('new_fragment', 'load_map', 'reset')):
        assert peer.trigger(f'/mapper/{service}').success
        camera.send(*(orbit.image(3 + 2 * count + index) for index in range(2)))
        status = peer.until_settled(5 + 2 * count)
        counts.append((status.resets, status.recoveries))
    assert counts == [(1, 0), (2, 0), (3, 0)]
