# SPDX-License-Identifier: Apache-2.0
"""What waits in an intake is bounded in bytes, whatever does not come."""
from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from intake_rig import CAMERA, SECOND_NS, MakeRig, Rig

from spann3r_ros.core.camera import Distortion
from spann3r_ros.pipeline import transform_tree
from spann3r_ros.pipeline.sync.camera_sync import MAX_COEFFICIENT_BYTES, Calibrations
from spann3r_ros.pipeline.transform_tree import StampedTransform, TransformTree

HEIGHT, WIDTH = 1080, 1920
BOUND = 50_000_000
COUNT = 60


class Arrays:
    """Makes arrays and measures how many bytes of them are alive."""

    def __init__(self) -> None:
        self._made: list[weakref.ref] = []

    def zeros(self, *shape: int, kind: type = np.uint8) -> np.ndarray:
        array = np.zeros(shape, kind)
        self._made.append(weakref.ref(array))
        return array

    @property
    def held(self) -> int:
        return sum(array.nbytes for one in self._made if (array := one()) is not None)


@pytest.fixture
def make() -> Iterator[MakeRig]:
    rigs = []

    def make(*arguments: object, **settings: object) -> Rig:
        rigs.append(Rig(*arguments, max_waiting_bytes=BOUND, **settings))
        return rigs[-1]
    yield make
    for rig in rigs:
        rig.runner.stop()


@pytest.mark.parametrize('mode', ['live', 'replay'])
@pytest.mark.parametrize('settings', [
    {'mask': 'exact'}, {'mask': 'latest'}, {'pose_source': 'tf', 'pose_timeout_sec': 60.0}])
def test_images_that_wait_in_vain_are_bounded(
        settings: dict[str, object], mode: str, make: MakeRig) -> None:
    arrays, rig = Arrays(), make(mode, False, **settings)
    most = 0
    for index in range(COUNT):
        # All within the timeout of image time.
        rig.intake.take_image(SECOND_NS + index * 1000, 'camera',
                              lambda: arrays.zeros(HEIGHT, WIDTH, 3))
        most = max(most, arrays.held)
    assert most <= BOUND
    accounts = rig.accounts()
    assert accounts.balanced and accounts.received + rig.intake.waiting == COUNT
    assert accounts.received > 0 and accounts.received == accounts.dropped


def test_images_that_wait_for_a_calibration_are_bounded(make: MakeRig) -> None:
    for mode in ('live', 'replay'):
        arrays, rig = Arrays(), make(mode, True)
        most = 0
        for index in range(COUNT):
            rig.intake.take_image(SECOND_NS + index * 1000, 'camera',
                                  lambda arrays=arrays: arrays.zeros(HEIGHT, WIDTH, 3))
            rig.runner.call(lambda: None)
            rig.taken.clear()
            most = max(most, arrays.held)
        # One image more is in the slot or with the worker.
        assert most <= BOUND + HEIGHT * WIDTH * 3, mode


@pytest.mark.parametrize('mask', ['exact', 'latest'])
def test_masks_without_images_are_bounded(mask: str, make: MakeRig) -> None:
    arrays, rig = Arrays(), make('replay', False, mask=mask)
    for index in range(COUNT):
        rig.intake.take_mask(SECOND_NS + index, lambda: arrays.zeros(HEIGHT, WIDTH, kind=bool))
        assert arrays.held <= BOUND
    assert arrays.held > 0


def test_calibrations_with_many_coefficients_are_bounded() -> None:
    calibrations = Calibrations(1.0)
    camera = replace(CAMERA, distortion=Distortion('plumb_bob', (0.1,) * 5000))
    for index in range(100):
        calibrations.take(index, camera)
    assert 0 < calibrations._bytes <= MAX_COEFFICIENT_BYTES
    assert len(calibrations._items) < 100


def test_transforms_of_one_edge_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform_tree, 'MAX_STAMPS', 50)
    tree = TransformTree(600.0)
    for index in range(200):
        tree.take(StampedTransform('odom', 'base', index, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)))
    assert tree.lookup('odom', 'base', 149) is None
    assert tree.lookup('odom', 'base', 150) is not None
