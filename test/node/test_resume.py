# SPDX-License-Identifier: Apache-2.0
"""A saved map is continued by another process that loads it."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from harness import Camera, Mapper, Orbit, Peer, stamp_of, to_ns
from nav_msgs.msg import Odometry, Path
from sensor_msgs.msg import PointCloud2
from synthetic import (
    SyntheticNetwork,
    SyntheticScene,
    orbit_trajectory,
    render_frames,
    square_camera,
)

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert
from spann3r_ros.mapping.mapper import Mapper as Mapping
from spann3r_ros.mapping.storage.map_directory import encode_map

Start = Callable[..., Mapper]
FIRST, ALL = 6, 11


def place(pose: object) -> np.ndarray:
    return np.array([pose.position.x, pose.position.y, pose.position.z])


def test_another_process_continues_a_saved_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    path = peer.listen(Path, '/mapper/path', latched=True)
    clouds = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    options = {'index_from_image': True, 'stretch': 1.8}
    mapper = start(options, mode='replay')
    camera.send(*(orbit.image(index) for index in range(FIRST)))
    peer.until_settled(FIRST)
    assert peer.trigger('/mapper/save_map').success
    peer.until(lambda: path and len(path[-1].poses) == FIRST, 'the whole path')
    peer.until(lambda: peer.statuses()[-1].frames_received == FIRST, 'the last status')
    voxels = peer.statuses()[-1].voxels
    mapper.stop()
    peer.until(lambda: not camera.readers, 'the first process to be gone')
    for heard in (path, clouds, peer.statuses()):
        heard.clear()

    # Another map is begun first: the loaded one replaces it, and odometry does not jump.
    odometry = peer.listen(Odometry, '/mapper/odometry')
    start(options, mode='replay', map_publish_period_sec=0.0)
    camera.send(*(orbit.image(index) for index in (20, 21)))
    peer.until_settled(2)
    answer = peer.trigger('/mapper/load_map')
    # The last image waits for its estimate, which comes with the next one.
    assert answer.success and f'{voxels} voxels, {FIRST - 1} keyframes' in answer.message
    assert 'the sequence of the network goes on' in answer.message
    peer.until(lambda: path and len(path[-1].poses) == FIRST - 1, 'the loaded path')
    peer.until(lambda: clouds and clouds[-1].width == voxels, 'the loaded map')
    camera.send(*(orbit.image(index) for index in range(FIRST, ALL)))
    peer.until_settled(2 + ALL - FIRST)
    newest = stamp_of(ALL - 2)
    peer.until(lambda: to_ns(path[-1].poses[-1].header.stamp) == newest, 'the new path')
    assert [to_ns(one.header.stamp) for one in path[-1].poses] == [
        stamp_of(index) for index in range(ALL - 1)]
    for index, one in enumerate(path[-1].poses):
        truth = MAP_FROM_OPTICAL @ invert(orbit.poses[0]) @ orbit.poses[index]
        assert np.linalg.norm(place(one.pose) - truth[:3, 3]) < 0.01
    assert peer.statuses()[-1].voxels > voxels
    step = np.linalg.norm(orbit.poses[1][:3, 3] - orbit.poses[0][:3, 3])
    places = np.array([place(one.pose.pose) for one in odometry])
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 2.5 * step


def test_failed_load_is_reported_and_keeps_the_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start(autostart=False, mode='replay')
    assert 'not configured' in peer.trigger('/mapper/load_map').message
    assert peer.change_state('configure') and peer.change_state('activate')
    # A replay without a map to save continues.
    assert 'the map is empty' in peer.trigger('/mapper/save_map').message
    camera.send(*(orbit.image(index) for index in range(4)))
    voxels = peer.until_settled(4).voxels
    answer = peer.trigger('/mapper/load_map')
    assert not answer.success and 'expected the directory of a saved map' in answer.message
    mapper.map_directory.mkdir()
    (mapper.map_directory / 'map.npz').write_bytes(b'no map')
    answer = peer.trigger('/mapper/load_map')
    assert not answer.success and 'expected a map that this package saved' in answer.message
    camera.send(orbit.image(4))
    assert peer.until_settled(5).voxels >= voxels


def test_a_load_of_a_map_that_does_not_fit_changes_no_time(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    # A map of a network with smaller images.
    camera_model, poses = square_camera(64), orbit_trajectory(4)
    other = Mapping(SyntheticNetwork(SyntheticScene(), poses, intrinsics=camera_model))
    for frame in render_frames(SyntheticScene(), poses, camera_model):
        other.process(frame)
    encode_map(other).write(mapper.map_directory)
    answer = peer.trigger('/mapper/load_map')
    assert not answer.success and 'expected keyframes of height and width' in answer.message
    camera.send(orbit.image(2), orbit.image(4))
    status = peer.until_settled(6)
    assert (status.frames_processed, status.frames_failed, status.resets) == (5, 1, 0)
