# SPDX-License-Identifier: Apache-2.0
"""A map is loaded by a camera that is elsewhere: TF is silent until it is found there."""
from __future__ import annotations

import math
from collections.abc import Callable
from threading import Event, Thread

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import START_NS, Camera, Mapper, Orbit, Peer, balanced, raw_image, stamp_of
from nav_msgs.msg import Odometry, Path
from robot import Robot

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert

Start = Callable[..., Mapper]
OPTIONS = {'index_from_image': True, 'describes': True}
ON = {'relocalisation.enabled': True}
MAPPED, SEEN, LOADS = 24, 6, 50
# The images after the load, and the stamps by which they come.
AGAIN, LATER = 8, 100


def truth(orbit: Orbit, index: int) -> np.ndarray:
    return MAP_FROM_OPTICAL @ invert(orbit.poses[0]) @ orbit.poses[index]


def test_map_to_odom_is_silent_until_the_camera_is_located(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    odometry = peer.listen(Odometry, '/mapper/odometry')
    poses = peer.listen(PoseWithCovarianceStamped, '/mapper/pose')
    paths = peer.listen(Path, '/mapper/path', latched=True)
    start(OPTIONS, mode='replay', publish_tf='camera', map_publish_period_sec=0.0, **ON)
    camera.send(*(orbit.image(index) for index in range(MAPPED)))
    assert peer.until_settled(MAPPED).localisation == 'located'
    assert peer.trigger('/mapper/save_map').success
    answer = peer.trigger('/mapper/load_map')
    assert answer.success and 'the next image is searched for in the map' in answer.message
    peer.until(lambda: peer.statuses()[-1].localisation == 'searching', 'the search')
    located_from = None
    for count in range(SEEN):
        camera.send(raw_image(orbit.rgb[AGAIN + count], stamp_of(LATER + count)))
        status = peer.until_settled(MAPPED + count + 1)
        if status.localisation == 'located' and located_from is None:
            located_from = count
        peer.until(lambda: ('odom', 'camera_optical') in robot.edges_at(stamp_of(
            LATER + count)) or count == 0, 'odometry')  # noqa: B023
    assert located_from is not None and located_from <= 3
    # The first image of a sequence has no pose before the second one.
    for count in range(SEEN):
        edges = robot.edges_at(stamp_of(LATER + count))
        assert (('map', 'odom') in edges) is (count >= located_from)
    stamped = {one.header.stamp.sec * 10**9 + one.header.stamp.nanosec for one in poses}
    assert not stamped & {stamp_of(LATER + count) for count in range(located_from)}
    for count in range(located_from, SEEN):
        found = robot.lookup('map', 'camera_optical', stamp_of(LATER + count))
        np.testing.assert_allclose(found, truth(orbit, AGAIN + count), atol=0.02)
    # In odom the camera makes its true steps, also while its place in the map jumps.
    for count in range(2, SEEN):
        before, after = (robot.lookup('odom', 'camera_optical', stamp_of(LATER + one))
                         for one in (count - 1, count))
        step = invert(orbit.poses[AGAIN + count - 1]) @ orbit.poses[AGAIN + count]
        np.testing.assert_allclose(invert(before) @ after, step, atol=0.02)
    places = np.array([[one.pose.pose.position.x, one.pose.pose.position.y,
                        one.pose.pose.position.z] for one in odometry])
    longest = np.linalg.norm(orbit.poses[1][:3, 3] - orbit.poses[0][:3, 3])
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 2.5 * longest
    newest = stamp_of(LATER + SEEN - 2)
    peer.until(lambda: paths[-1].poses[-1].header.stamp.nanosec == newest % 10**9, 'the path')
    assert len(paths[-1].poses) == MAPPED + SEEN - 1


def pose(frame: str, x: float = 0.0) -> PoseWithCovarianceStamped:
    message = PoseWithCovarianceStamped()
    message.header.frame_id = frame
    message.pose.pose.orientation.w, message.pose.pose.position.x = 1.0, x
    return message


def test_maps_are_loaded_while_images_stream_and_hints_come(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    hints = peer.publisher(PoseWithCovarianceStamped, '/initialpose')
    mapper = start(OPTIONS, **ON, **{
        'qos_overrides./camera/image_raw.subscription.reliability': 'reliable',
        'qos_overrides./camera/image_raw.subscription.depth': 100})
    statuses = peer.statuses()
    peer.until_read(hints)

    def hint(message: PoseWithCovarianceStamped, answer: str) -> None:
        hints.publish(message)
        peer.until(lambda: answer in mapper.log, answer)
    hint(pose('odom'), "initialpose: expected a pose in the frame map, got one in 'odom'")
    hint(pose('map'), 'initialpose: expected a map')
    camera.connect()
    for index in range(MAPPED):
        camera.send(raw_image(orbit.rgb[index], START_NS + index * 10**8))
        peer.until_settled(index + 1)
    hint(pose('map', math.nan), 'initialpose: expected a position and a quaternion')
    hint(pose('map', 50.0), 'the camera is located elsewhere')
    assert peer.trigger('/mapper/save_map').success

    sent, ending = [MAPPED], Event()

    def stream() -> None:
        while not ending.wait(0.1):
            count = sent[0]
            camera.send(raw_image(orbit.rgb[AGAIN + count % 8], START_NS + count * 10**8))
            sent[0] += 1
    streaming = Thread(target=stream)
    streaming.start()
    try:
        answers = [peer.trigger('/mapper/load_map') for _ in range(LOADS)]
    finally:
        ending.set()
        streaming.join()
    assert all(one.success for one in answers) and mapper.alive()
    last = peer.until_settled(sent[0])
    assert all(balanced(one) for one in statuses)
    assert (last.frames_received, last.resets >= LOADS) == (sent[0], True)
    peer.trigger('/mapper/load_map')
    for count in range(SEEN):
        stamp_ns = START_NS + (sent[0] + count) * 10**8
        camera.send(raw_image(orbit.rgb[AGAIN + count], stamp_ns))
        last = peer.until_settled(sent[0] + count + 1)
    assert last.localisation == 'located'
