# SPDX-License-Identifier: Apache-2.0
"""~/map over DDS for Nav2's static layer; clouds and depth for octomap_server and nvblox."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from grid_rooms import FREE, OCCUPIED, UNKNOWN, lattice, share, states
from harness import OPTICAL_FRAME, Camera, Mapper, Orbit, Peer, running, stamp_of, to_ns
from movable_mapper import TOPIC as MOVES
from nav_msgs.msg import OccupancyGrid
from robot import Robot
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Float64MultiArray, Header
from synthetic import SyntheticScene
from synthetic_mapper import FRAMES
from test_moved_fragment import MovableMapper

from spann3r_ros.core.transforms import transform_points
from spann3r_ros.mapping.occupancy.evidence_layer import OccupancySnapshot
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.occupancy.occupancy_grid import Grid
from spann3r_ros.ros.conversions import POINT
from spann3r_ros.ros.outputs.latched_views import LatchedGrid

Start = Callable[..., Mapper]
SCENE = SyntheticScene()
PATIENT_SEC = 50.0
TOPIC = '/mapper/map'


def grid_of(message: OccupancyGrid) -> Grid:
    """Return the values of a message by its own description."""
    info, origin = message.info, message.info.origin
    values = np.array(message.data, np.int8).reshape(info.height, info.width)
    assert (origin.orientation.x, origin.orientation.y, origin.orientation.z,
            origin.orientation.w) == (0.0, 0.0, 0.0, 1.0)
    return Grid(values, info.resolution, (origin.position.x, origin.position.y,
                                          origin.position.z))


def can_reach(grid: Grid, start: tuple[float, float], goal: tuple[float, float]) -> bool:
    """Return whether a path of free cells, each beside the one before, joins two points."""
    rows, columns = grid.values.shape

    def cell(point: tuple[float, float]) -> tuple[int, int]:
        x, y = (int((a - b) // grid.resolution)
                for a, b in zip(point, grid.origin, strict=False))
        return y, x
    first, last = cell(start), cell(goal)
    seen, waiting = {first}, deque([first])
    while waiting:
        row, column = waiting.popleft()
        if (row, column) == last:
            return True
        for step in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if (0 <= step[0] < rows and 0 <= step[1] < columns and step not in seen
                    and grid.values[step] == FREE):
                seen.add(step)
                waiting.append(step)
    return False


def points_of(cloud: PointCloud2) -> np.ndarray:
    """Return the points [n, 3] of a cloud."""
    table = np.frombuffer(cloud.data, POINT)
    return np.stack([table[axis] for axis in 'xyz'], axis=1).astype(float)


def check_room(message: OccupancyGrid) -> None:
    grid = grid_of(message)
    assert set(np.unique(grid.values)) == {UNKNOWN, FREE, OCCUPIED}
    cells = np.array(grid.origin[:2]) / grid.resolution
    np.testing.assert_array_equal(cells, np.rint(cells))
    x, y = lattice(SCENE.room[0, :2] + 0.1, SCENE.room[1, :2] - 0.1)
    boxes = np.zeros(len(x), bool)
    for low, high in SCENE.boxes:
        boxes |= ((x > low[0] - 0.1) & (x < high[0] + 0.1) & (y > low[1] - 0.1)
                  & (y < high[1] + 0.1))
    inside = states(grid, x, y)[~boxes]
    assert share(inside, OCCUPIED) < 0.01
    assert share(inside, FREE) > 0.8  # the boxes hide parts of the floor
    x, y = lattice((-4.0, -4.0), (4.0, 4.0))
    outside = (np.abs(x) > 2.6) | (np.abs(y) > 2.3)
    assert not (states(grid, x[outside], y[outside]) == FREE).any()
    # Two sides of the box in the middle.
    assert can_reach(grid, (-1.0, -0.6), (1.1, 0.7))
    assert not can_reach(grid, (-1.0, -0.6), (0.05, 0.0))
    assert not can_reach(grid, (-1.0, -0.6), (3.0, 0.0))


def test_late_joiner_gets_the_grid_of_a_metric_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start({'unit': 2.5}, autostart=False, mode='replay', pose_source='tf',
          pose_timeout_sec=PATIENT_SEC)
    clouds = peer.listen(PointCloud2, '/mapper/points')
    seen = peer.listen(PointCloud2, '/mapper/depth/points')
    depths = peer.listen(Image, '/mapper/depth/image_rect')
    infos = peer.listen(CameraInfo, '/mapper/depth/camera_info')
    peer.statuses()
    robot.begin()
    camera.connect()
    for index in range(FRAMES):
        robot.localise(index)
        robot.drive(index)
        camera.send(orbit.image(index))
    status = peer.until_settled(FRAMES)
    assert status.metric and status.grid_reason == ''
    count = FRAMES - 1
    grids = peer.listen(OccupancyGrid, TOPIC, latched=True)
    peer.until(lambda: grids and to_ns(grids[-1].header.stamp) == stamp_of(count - 1),
               'the grid')
    assert grids[-1].header.frame_id == 'map'
    assert grids[-1].info.map_load_time == grids[-1].header.stamp
    check_room(grids[-1])

    peer.until(lambda: min(map(len, (clouds, seen, depths, infos))) == count, 'clouds and depth')
    assert [one.header.stamp for one in depths] == [one.header.stamp for one in infos]
    for index in (5, 20):
        cloud, camera_cloud, depth = clouds[index], seen[index], depths[index]
        stamp = to_ns(camera_cloud.header.stamp)
        assert stamp == to_ns(cloud.header.stamp) == stamp_of(index)
        # octomap_server: rays begin at the origin of the cloud's frame, at the cloud's stamp.
        assert camera_cloud.header.frame_id == OPTICAL_FRAME
        assert [one.name for one in camera_cloud.fields][:3] == ['x', 'y', 'z']
        in_camera = points_of(camera_cloud)
        in_map = transform_points(robot.lookup('map', OPTICAL_FRAME, stamp), in_camera)
        np.testing.assert_allclose(in_map, points_of(cloud), atol=1e-4)
        # nvblox: 32FC1 in metres, with the calibration of the same stamp and size.
        assert (depth.encoding, depth.header.frame_id) == ('32FC1', OPTICAL_FRAME)
        assert (infos[index].width, infos[index].height) == (depth.width, depth.height)
        assert infos[index].header == depth.header
        metres = np.frombuffer(depth.data, '<f4')
        np.testing.assert_allclose(metres, in_camera[:, 2], atol=1e-6)
        k, pixel = infos[index].k, 30 * depth.width + 70
        np.testing.assert_allclose(
            in_camera[pixel], metres[pixel] * np.array([(70 - k[2]) / k[0], (30 - k[5]) / k[4],
                                                        1.0]), atol=1e-5)


def occupied(message: OccupancyGrid) -> np.ndarray:
    """Return the centres [n, 2] of the occupied cells."""
    grid = grid_of(message)
    row, column = np.nonzero(grid.values == OCCUPIED)
    return (np.stack([column, row], axis=1) + 0.5) * grid.resolution + grid.origin[:2]


@pytest.fixture
def movable(tmp_path: Path) -> Iterator[Mapper]:
    with running(MovableMapper(tmp_path, {'index_from_image': True}, mode='replay',
                               **{'grid.period_sec': 0.0})) as mapper:
        yield mapper


def test_grid_is_silent_until_the_map_is_metric_or_it_is_forced(
        peer: Peer, camera: Camera, orbit: Orbit, movable: Mapper) -> None:
    mapper = movable
    move = peer.publisher(Float64MultiArray, MOVES)
    grids = peer.listen(OccupancyGrid, TOPIC, latched=True)
    peer.statuses()
    camera.send(*(orbit.image(index) for index in range(20)))
    status = peer.until_settled(20)
    assert status.grid_reason == 'the scale of the map is not known'
    peer.until(lambda: f'{TOPIC} is not published: {status.grid_reason}' in mapper.log, 'the log')
    assert grids == []
    assert mapper.log.count('the scale of the map is not known') == 1
    assert peer.set_parameters({'grid.force': True}).successful
    peer.until(lambda: grids, 'the forced grid')
    grid = grid_of(grids[-1])
    # The map begins at the camera, 1.2 m above the floor; the unit of the network is a metre.
    assert abs(grid.origin[2] + 1.2) < 0.05
    assert (grid.values == FREE).sum() > 500
    peer.until(lambda: peer.statuses()[-1].grid_reason == '', 'the status')

    # It follows the map: a fragment that becomes half as large and is elsewhere.
    before, count = occupied(grids[-1]), len(grids)
    place = np.diag([0.5, 0.5, 0.5, 1.0])
    place[:3, 3] = 3.03, -1.01, 0.4
    peer.until(move.get_subscription_count, 'the mapper to listen')
    move.publish(Float64MultiArray(data=[0.0, *place.ravel()]))
    peer.until(lambda: len(grids) > count, 'the moved grid')
    after = occupied(grids[-1])
    distance = np.abs(0.5 * before[:, None] + place[:2, 3] - after).max(axis=2).min(axis=1)
    # Some cells of half the size are beyond the heights now.
    assert len(before) > 200 and np.mean(distance < 0.06) > 0.6
    assert after[:, 0].min() > before[:, 0].min() + 2.0


class Listened:
    """Has the place of the publisher of ~/map."""

    is_activated = True

    def __init__(self) -> None:
        self.listeners = 0
        self.sizes: list[tuple[int, int]] = []

    def get_subscription_count(self) -> int:
        return self.listeners

    def publish(self, message: OccupancyGrid) -> None:
        self.sizes.append((message.info.width, message.info.height))


def test_a_map_without_a_grid_replaces_the_grid_of_the_map_before() -> None:
    mapper = SimpleNamespace(grid_reason='the map is empty',
                             grid_snapshot=lambda: OccupancySnapshot([], GridConfig()))
    publisher, reasons, errors = Listened(), [], []
    with ThreadPoolExecutor(1) as executor:
        topic = LatchedGrid(publisher, executor, 0.0, errors.append, reasons.append)
        topic._view = lambda _: Grid(np.zeros((8, 8), np.int8), 0.05, (0.0, 0.0, 0.0))

        def refresh() -> None:
            topic.change()
            topic.refresh(mapper, Header(), force=True)
        refresh()
        assert (publisher.sizes, reasons, topic.missing) == ([], ['the map is empty'], '')
        mapper.grid_reason, publisher.listeners = '', 1
        refresh()
        mapper.grid_reason = 'the map is empty'
        refresh()
        refresh()
    assert publisher.sizes == [(8, 8), (1, 1)] and not errors
    assert reasons == ['the map is empty', '', 'the map is empty']
