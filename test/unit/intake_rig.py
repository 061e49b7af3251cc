# SPDX-License-Identifier: Apache-2.0
"""An intake before a runner, without ROS."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mapper_runs import every_frame
from synthetic import SyntheticNetwork, SyntheticScene, orbit_trajectory, square_camera

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.types import Frame
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.pipeline.image_clock import Jump
from spann3r_ros.pipeline.intake import Intake
from spann3r_ros.pipeline.node_settings import NodeConfig
from spann3r_ros.pipeline.runner import Runner
from spann3r_ros.pipeline.slot import Accounts
from spann3r_ros.pipeline.sync.camera_sync import Expected
from spann3r_ros.pipeline.transform_tree import TransformTree

SECOND_NS = 10**9
CAMERA = square_camera(96)
SCENE = SyntheticScene()
MakeRig = Callable[..., 'Rig']


class Rig:
    """An intake before a runner whose mapper records the frames that it gets."""

    def __init__(self, mode: str, expected: bool, **settings: object) -> None:
        poses = orbit_trajectory(60)
        self.mapper = Mapper(SyntheticNetwork(SCENE, poses, intrinsics=CAMERA), every_frame())
        self.taken: list[Frame] = []
        self.errors: list[str] = []
        self.jumps: list[tuple[float, Jump]] = []
        self.lacks: list[str] = []
        self.mapper.process = self._process
        self.runner = Runner(self.mapper, mode == 'replay', self)
        self.runner.slot.open()
        self.config = NodeConfig(mode=mode, **settings)
        self.expected = Expected(lambda: expected, lambda: False)
        self._matches = 0
        self.open()

    def open(self) -> None:
        self.intake = Intake(self.config, self.runner, TransformTree(10.0), self, self.expected)

    def image(self, sec: float, size: int = 96) -> None:
        self.intake.take_image(round(sec * SECOND_NS), 'camera',
                               lambda: np.zeros((size, size, 3), np.uint8))
        self._settle()

    def info(self, sec: float, intrinsics: Intrinsics | None) -> None:
        self.intake.take_calibration(round(sec * SECOND_NS), lambda: intrinsics)
        self._settle()

    def match(self) -> None:
        self.intake.match()
        self._settle()

    def load(self) -> None:
        """Take over a map with one image of the usual size, as `Runner.load` does."""
        self.intake.drop_waiting()
        self.runner.forget_waiting()
        self.runner.calibration.begin_with((96, 96), None)
        self.runner.size.begin_with((96, 96))
        self.runner.is_loaded = True

    def used(self) -> list[tuple[float, Intrinsics | None]]:
        return [(frame.stamp_ns / SECOND_NS, frame.intrinsics) for frame in self.taken]

    def accounts(self) -> Accounts:
        return self.runner.slot.accounts()

    def _process(self, frame: Frame) -> MapUpdate:
        self.taken.append(frame)
        return MapUpdate()

    def _settle(self) -> None:
        self.runner.call(lambda: None)
        while self._matches:
            self._matches -= 1
            self.intake.match()
            self.runner.call(lambda: None)

    def match_soon(self) -> None:
        self._matches += 1

    def image_waits(self) -> None:
        pass

    def image_failed(self, error: Exception) -> None:
        self.errors.append(str(error))

    def time_jumped(self, stamp_ns: int, jump: Jump) -> None:
        self.jumps.append((stamp_ns / SECOND_NS, jump))
        if jump is Jump.RESET:
            self.runner.reset()

    def input_fault(self, reason: str) -> None:
        self.lacks.append(reason)

    def map_replaced(self, error: Exception) -> None:
        self.runner.replace_first()
        self.taken.clear()
        self.errors.append(str(error))

    def deliver(self, update: MapUpdate) -> None:
        pass

    def frame_settled(self) -> None:
        pass

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        self.errors.append(str(error))

    def report_failed(self, error: Exception) -> None:
        raise error
