# SPDX-License-Identifier: Apache-2.0
"""Images wait for the odometry or the depth that gives the scale, and go on without."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recorded_bags import CAMERA, FRAMES, IMAGE_TOPIC, OrbitBag
from synthetic import (
    SyntheticNetwork,
    SyntheticOptions,
    SyntheticScene,
    every_frame,
    orbit_trajectory,
)

from spann3r_ros.core.image_files.depth_images import to_depth
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.datasets.bags import CameraBag, TopicNames
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.scale.scale_config import ScaleConfig
from spann3r_ros.pipeline.bag_replay import Replay
from spann3r_ros.pipeline.node_settings import NodeConfig
from spann3r_ros.pipeline.sync.bounds import QueueBounds
from spann3r_ros.pipeline.sync.camera_sync import Expected
from spann3r_ros.pipeline.sync.outlet import Outlet
from spann3r_ros.pipeline.sync.scale_sync import ScaleSync
from spann3r_ros.pipeline.sync.wait_clock import WaitClock
from spann3r_ros.pipeline.transform_tree import StampedTransform, TransformTree

NO_TURN = (0.0, 0.0, 0.0, 1.0)
DEPTH_TOPIC = '/camera/depth'
UNIT = 0.37


class Sync:
    """A synchroniser with a test clock; what it passed on: (stamp, with or without)."""

    def __init__(self, source: str, capacity: int = 5) -> None:
        self.now = 100.0
        self.out: list[tuple[int, bool]] = []
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self.dropped = 0
        self._calls = 0
        self.tree = TransformTree(60.0)
        self.sync = ScaleSync(
            source, 'odom', self.tree, QueueBounds(capacity, 10**9), 0.5,
            Outlet(self._take, self._drop, lambda error: self.warnings.append(str(error)),
                   pytest.fail, self._match_soon),
            WaitClock(replay=False, wall=lambda: self.now), self.faults.append)

    def image(self, *stamps: int) -> None:
        for stamp in stamps:
            self.sync.take_frame(Frame(stamp, 'camera', np.zeros((2, 2, 3), np.uint8)))
            self.match(0)

    def drive(self, *stamps: int) -> None:
        for stamp in stamps:
            self.tree.take(StampedTransform('odom', 'camera', stamp, (1.0, 0.0, 0.0), NO_TURN))
        self.match()

    def depth(self, *stamps: int, size: int = 2) -> None:
        for stamp in stamps:
            self.sync.take_depth(stamp, np.ones((size, size), np.float32))
            self.match(0)

    def match(self, calls: int = 1) -> None:
        self._calls += calls
        while self._calls:
            self._calls -= 1
            self.sync.match()

    def _match_soon(self) -> None:
        self._calls += 1

    def _take(self, frame: Frame) -> None:
        self.out.append((frame.stamp_ns, frame.odometry is not None or frame.depth is not None))

    def _drop(self) -> None:
        self.dropped += 1


@pytest.mark.parametrize('source', ['none', 'number'])
def test_other_sources_need_nothing(source: str) -> None:
    rig = Sync(source)
    rig.image(1, 2)
    rig.depth(3)
    rig.image(3)
    assert rig.out == [(1, False), (2, False), (3, False)]


def test_images_wait_for_odometry_and_keep_their_order() -> None:
    rig = Sync('odometry')
    rig.image(10, 20)
    assert rig.out == [] and len(rig.sync) == 2
    rig.drive(5, 15)
    assert rig.out == [(10, True)]
    rig.drive(25)
    assert rig.out == [(10, True), (20, True)]


def test_auto_waits_only_while_tf_connects_odometry_and_camera() -> None:
    rig = Sync('auto')
    rig.image(10)
    assert rig.out == [(10, False)]
    rig.drive(15)
    rig.image(20)
    assert rig.out == [(10, False)] and len(rig.sync) == 1
    rig.drive(25)
    assert rig.out[1:] == [(20, True)]


def test_one_image_waits_in_vain_and_is_reported_once() -> None:
    rig = Sync('odometry')
    rig.image(10)
    rig.now += 0.4
    rig.image(20)
    rig.now += 0.2
    rig.match()
    assert rig.out == [(10, False), (20, False)] and rig.dropped == 0
    assert len(rig.faults) == 1 and 'odom -> camera' in rig.faults[0]
    rig.image(30)
    assert rig.out[2:] == [(30, False)]
    # What the first one lacked comes: images wait again.
    rig.drive(5, 35)
    rig.image(40)
    assert len(rig.sync) == 1
    rig.drive(45)
    assert rig.out[3:] == [(40, True)] and len(rig.faults) == 1


def test_an_image_without_odometry_does_not_hold_back_the_next_one() -> None:
    rig = Sync('odometry')
    rig.image(10, 20)
    rig.drive(15, 25)
    assert rig.out == [(10, False), (20, True)] and rig.faults == []


def test_waiting_is_bounded_and_nothing_is_lost() -> None:
    rig = Sync('odometry', capacity=3)
    rig.image(1, 2, 3, 4)
    assert rig.out == [(1, False)] and len(rig.sync) == 3
    rig.sync.drain()
    assert [stamp for stamp, _ in rig.out] == [1, 2, 3, 4]
    rig.image(5)
    rig.sync.drop_waiting()
    assert rig.dropped == 1


def test_depth_is_matched_by_its_stamp() -> None:
    rig = Sync('depth')
    rig.depth(10, 30)
    rig.image(10, 20, 30)
    assert rig.out == [(10, True), (20, False), (30, True)]
    rig.image(40)
    assert len(rig.sync) == 1
    rig.depth(40)
    assert rig.out[3:] == [(40, True)]
    for stamp in range(100, 120):
        rig.depth(stamp)  # without images: the oldest are forgotten
    rig.image(100)
    assert len(rig.sync) == 1


def test_depth_of_another_size_is_refused_and_the_image_used() -> None:
    rig = Sync('depth')
    rig.depth(10, size=3)
    rig.image(10)
    assert rig.out == [(10, False)] and 'registered' in rig.warnings[0]


def depth_message(encoding: str, rows: np.ndarray, **changed: Any) -> SimpleNamespace:  # noqa: ANN401
    data = rows.tobytes()
    values = {'height': len(rows), 'width': 2, 'encoding': encoding, 'is_bigendian': 0,
              'step': len(data) // len(rows), 'data': data}
    return SimpleNamespace(**{**values, **changed})


@pytest.mark.parametrize(('encoding', 'dtype', 'big'), [
    ('16UC1', '<u2', 0), ('16UC1', '>u2', 1), ('mono16', '<u2', 0), ('32FC1', '<f4', 0)])
def test_depth_images_are_metres(encoding: str, dtype: str, big: int) -> None:
    unit = 1.0 if '32' in encoding else 1000.0
    # One column of padding.
    rows = (np.array([[0.0, 1.5, 9.0], [2.0, 40.0, 9.0]]) * unit).astype(dtype)
    found = to_depth(depth_message(encoding, rows, is_bigendian=big))
    np.testing.assert_allclose(found, [[0.0, 1.5], [2.0, 40.0]], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(('changed', 'text'), [
    ({'encoding': 'rgb8'}, 'depth encoding'), ({'step': 3}, 'step of 3'),
    ({'height': 9}, 'expected 9 rows')])
def test_malformed_depth_is_refused(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(FrameError, match=text):
        to_depth(depth_message('16UC1', np.zeros((2, 2), '<u2')).__class__(
            **{**vars(depth_message('16UC1', np.zeros((2, 2), '<u2'))), **changed}))


class DepthBag(OrbitBag):
    """An `OrbitBag` with depth images."""

    def depth(self, index: int) -> None:
        metres = SyntheticScene().render(self.poses[index], CAMERA)[1][..., 2]
        self._image(DEPTH_TOPIC, self._stamp(index), '16UC1',
                    np.round(1000.0 * metres).astype('<u2'))

    @staticmethod
    def _stamp(index: int) -> int:
        from recorded_bags import stamp_of
        return stamp_of(index)


def replayed(path: Path, source: str, **names: Any) -> tuple[dict[str, Any], float]:  # noqa: ANN401
    """Replay a bag; return the summary and the factor of the path."""
    network = SyntheticNetwork(SyntheticScene(), orbit_trajectory(FRAMES),
                               SyntheticOptions(index_from_image=True, unit=UNIT), CAMERA)
    mapper = Mapper(network, every_frame(MapperConfig(scale=ScaleConfig(source))))
    replay = Replay(mapper, NodeConfig(), Expected(lambda: True, lambda: True))
    try:
        with CameraBag(path, TopicNames(IMAGE_TOPIC, **names)) as bag:
            for role, time_ns, message in bag.messages():
                replay.take(role, message, time_ns)
            replay.finish()
            summary = vars(replay.summary(bag.count, 0.0, []))
    finally:
        replay.close()
    assert replay.defects == []
    path_points = mapper.path().map_from_camera[:, :3, 3]
    truth = np.array(orbit_trajectory(FRAMES))[:len(path_points), :3, 3]
    return summary, float(np.linalg.norm(path_points[-1] - path_points[0])
                          / np.linalg.norm(truth[-1] - truth[0]))


def test_a_replay_uses_odometry_in_whatever_order_it_was_recorded(tmp_path: Path) -> None:
    found = []
    for name, later_ns in (('early', 0), ('late', 700_000_000)):
        with OrbitBag(tmp_path / name) as bag:
            bag.mount()
            for index in range(24):
                bag.recorded_later_ns = 0
                bag.info(index)
                bag.raw(index)
                bag.recorded_later_ns = later_ns
                bag.drive(index)
        found.append(replayed(tmp_path / name, 'odometry'))
    (summary, factor), (late, _) = found
    assert summary['scale']['metric'] and summary['scale']['source'] == 'odometry'
    assert 0.02 < summary['scale']['deviation'] < 0.06
    assert abs(factor - 1.0) < 0.05
    assert late['sha256'] == summary['sha256']


def test_a_replay_uses_depth_images(tmp_path: Path) -> None:
    with DepthBag(tmp_path / 'bag') as bag:
        for index in range(8):
            bag.info(index)
            bag.raw(index)
            if index != 3:
                bag.depth(index)
    summary, factor = replayed(tmp_path / 'bag', 'depth', depths=True)
    assert summary['scale']['metric'] and abs(factor - 1.0) < 0.01
    assert summary['frames']['processed'] == 8
    unknown, factor = replayed(tmp_path / 'bag', 'none')
    assert unknown['scale'] == {'metric': False, 'source': 'none', 'deviation': None}
    assert abs(factor * UNIT - 1.0) < 0.01
