# SPDX-License-Identifier: Apache-2.0
"""A map has one calibration: what an image waits for, what it gets, and when it is refused."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from intake_rig import CAMERA, SCENE, MakeRig, Rig
from mapper_runs import every_frame
from synthetic import SyntheticNetwork, orbit_trajectory

from spann3r_ros.core.camera import Distortion, Intrinsics
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.mapping import front_end
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import KeyframeConfig, MapperConfig
from spann3r_ros.pipeline import intake as intake_module
from spann3r_ros.pipeline.sync import wait_clock

ZOOMED = replace(CAMERA, fx=1.1 * CAMERA.fx, fy=1.1 * CAMERA.fy)


class Wall:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr(intake_module, 'WaitClock',
                        lambda replay, busy: wait_clock.WaitClock(replay, busy, wall))
    return wall


@pytest.fixture
def make() -> Iterator[MakeRig]:
    rigs = []

    def make(mode: str = 'live', expected: bool = True, **settings: object) -> Rig:
        rigs.append(Rig(mode, expected, **settings))
        return rigs[-1]
    yield make
    for rig in rigs:
        rig.runner.stop()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_images_without_a_fresh_calibration_keep_that_of_the_map(
        make: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    rig = make()
    rig.info(0.0, CAMERA)
    for sec in (0.1, 0.9, 1.1, 3.0, 4.0):
        rig.image(sec)
    assert rig.used() == [(sec, CAMERA) for sec in (0.1, 0.9, 1.1, 3.0, 4.0)]
    warned, = warnings(caplog)
    assert 'within 1 s' in warned and 'the calibration that the map began with' in warned


@pytest.mark.parametrize('other', [None, replace(CAMERA, width=640, height=480)])
def test_a_calibration_that_ends_or_does_not_fit_leaves_that_of_the_map(
        other: Intrinsics | None, make: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    rig = make()
    rig.info(0.0, CAMERA)
    rig.image(0.0)
    for sec in (0.1, 0.2):
        rig.info(sec, other)
        rig.image(sec)
    assert rig.used() == [(sec, CAMERA) for sec in (0.0, 0.1, 0.2)]
    assert len(warnings(caplog)) == 1


def test_an_image_of_another_calibration_is_refused_and_counted(make: MakeRig) -> None:
    rig = make()
    for sec, camera in ((0.0, CAMERA), (0.1, ZOOMED), (0.2, CAMERA)):
        rig.info(sec, camera)
        rig.image(sec)
    assert rig.used() == [(0.0, CAMERA), (0.2, CAMERA)]
    assert (rig.accounts().processed, rig.accounts().failed) == (2, 1)
    error, = rig.errors
    assert 'calibration: expected that of the map' in error and str(ZOOMED) in error
    rig.runner.forget_waiting()
    rig.info(0.3, ZOOMED)
    rig.image(0.3)
    assert rig.used()[-1] == (0.3, ZOOMED)


def test_a_calibration_that_changes_by_little_is_that_of_the_map(make: MakeRig) -> None:
    rig = make()
    for step in range(3):
        rig.info(0.1 * step, replace(CAMERA, fx=(1.0 + 0.002 * step) * CAMERA.fx))
        rig.image(0.1 * step)
    assert [camera for _, camera in rig.used()] == [CAMERA] * 3


def test_a_map_that_began_without_a_calibration_goes_on_without(
        make: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    rig = make(expected=False)
    rig.image(0.0)
    for sec in (0.1, 0.2):
        rig.info(sec, CAMERA)
        rig.image(sec)
    assert [camera for _, camera in rig.used()] == [None] * 3
    warned, = warnings(caplog)
    assert 'a calibration came after the first image' in warned and 'reset' in warned
    rig.runner.forget_waiting()
    rig.image(0.3)
    assert rig.used()[-1] == (0.3, CAMERA)


def test_both_sizes_are_named_once_if_the_calibration_is_of_another_size(
        make: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    rig = make()
    for sec in (0.0, 0.1):
        rig.info(sec, replace(CAMERA, width=640, height=480))
        rig.image(sec)
    assert [camera for _, camera in rig.used()] == [None] * 2
    warned, = warnings(caplog)
    assert '640x480' in warned and '96x96' in warned


def test_an_unusable_calibration_costs_the_first_image_alone(make: MakeRig) -> None:
    rig = make()
    spoilt = (replace(CAMERA, distortion=Distortion('omni', (0.1,) * 4)),
              replace(CAMERA, distortion=Distortion('plumb_bob', (0.1,) * 3)),
              replace(CAMERA, cx=0.0))
    for sec, camera in enumerate((*spoilt, CAMERA)):
        rig.info(sec, camera)
        rig.image(sec)
    assert rig.used() == [(3.0, CAMERA)]
    assert rig.accounts().failed == len(rig.errors) == 3


@pytest.mark.parametrize('came_sec', [0.5, 3.0])
def test_live_the_first_image_waits_a_short_time_for_its_calibration(
        came_sec: float, wall: Wall, make: MakeRig) -> None:
    rig = make()
    rig.image(0.0)
    rig.image(0.1)
    assert (rig.used(), rig.intake.waiting) == ([], 2)
    wall.now += came_sec
    if came_sec < 1.0:
        rig.info(came_sec, CAMERA)
        assert [camera for _, camera in rig.used()] == [CAMERA] * 2
    else:
        rig.match()
        assert [camera for _, camera in rig.used()] == [None] * 2


def test_live_an_image_waits_for_nothing_that_nobody_publishes(make: MakeRig) -> None:
    rig = make(expected=False)
    rig.image(0.0)
    assert len(rig.used()) == 1


def test_live_an_uncalibrated_camera_is_not_waited_for(make: MakeRig) -> None:
    rig = make()
    rig.info(0.0, None)
    rig.image(0.0)
    assert rig.used() == [(0.0, None)]


def test_live_the_oldest_images_that_wait_are_dropped(wall: Wall, make: MakeRig) -> None:
    rig = make()
    for index in range(40):
        rig.image(0.01 * index)
    assert (rig.intake.waiting, rig.accounts().dropped, rig.used()) == (30, 10, [])
    rig.info(0.2, CAMERA)
    assert {camera for _, camera in rig.used()} == {CAMERA}


@pytest.mark.parametrize('early', [True, False])
def test_a_replay_refuses_the_same_images_in_any_order_of_messages(
        early: bool, make: MakeRig) -> None:
    rig = make('replay')
    cameras = (CAMERA, CAMERA, ZOOMED, CAMERA)
    for sec, camera in enumerate(cameras):
        if early:
            rig.info(sec, camera)
        rig.image(sec)
        if not early:
            rig.info(sec, camera)
    assert rig.used() == [(sec, CAMERA) for sec in (0.0, 1.0, 3.0)]
    assert rig.accounts().failed == 1


def test_the_calibration_of_a_map_outlives_a_deactivation(make: MakeRig) -> None:
    rig = make()
    rig.info(0.0, CAMERA)
    rig.image(0.0)
    rig.open()
    rig.image(0.1)
    assert rig.used() == [(0.0, CAMERA), (0.1, CAMERA)]


@pytest.mark.parametrize('choice', ['reset', 'fragment'])
def test_a_jump_back_begins_a_map_with_another_calibration_but_no_fragment(
        choice: str, make: MakeRig) -> None:
    rig = make('replay', time_jump=choice)
    for sec in (50.0, 50.1):
        rig.info(sec, CAMERA)
        rig.image(sec)
    for sec in (10.0, 10.1, 10.2):
        rig.info(sec, ZOOMED)
        rig.image(sec)
    rig.intake.drain()
    new = [(sec, ZOOMED) for sec in (10.0, 10.1, 10.2)] if choice == 'reset' else []
    assert rig.used() == [(50.0, CAMERA), (50.1, CAMERA), *new]
    assert rig.accounts().failed == 3 - len(new)


@pytest.mark.parametrize('other', [None, ZOOMED])
def test_the_mapper_refuses_frames_of_another_calibration(other: Intrinsics | None) -> None:
    poses = orbit_trajectory(8)
    mapper = Mapper(SyntheticNetwork(SCENE, poses, intrinsics=CAMERA), every_frame())
    frames = [Frame(index, 'camera', SCENE.render(pose, CAMERA)[0], CAMERA)
              for index, pose in enumerate(poses)]
    mapper.process(frames[0])
    with pytest.raises(FrameError, match='intrinsics: expected those of all frames'):
        mapper.process(replace(frames[1], intrinsics=other))
    assert mapper.process(frames[2]).keyframes


def test_the_gate_skips_frames_before_they_are_fitted_and_not_after_a_bad_one(
        monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, fit = [], front_end.preprocess
    monkeypatch.setattr(front_end, 'preprocess', lambda frame, *how: (
        fitted.append(frame.stamp_ns), fit(frame, *how))[1])
    poses = orbit_trajectory(14)
    mapper = Mapper(SyntheticNetwork(SCENE, poses, intrinsics=CAMERA),
                    every_frame(MapperConfig(KeyframeConfig(stride=5), live_pose=False)))
    frames = [Frame(index, 'camera', SCENE.render(pose, CAMERA)[0], CAMERA)
              for index, pose in enumerate(poses)]
    frames[5] = replace(frames[5], mask=np.ones((3, 3), bool))
    failed, processed = [], []
    for frame in frames:
        try:
            processed += [] if mapper.process(frame).skipped else [frame.stamp_ns]
        except FrameError:
            failed.append(frame.stamp_ns)
    assert (fitted, processed, failed) == ([0, 5, 6, 11], [0, 6, 11], [5])


def test_an_unknown_lens_is_refused_with_the_known_ones(make: MakeRig) -> None:
    rig = make()
    rig.info(0.0, replace(CAMERA, distortion=Distortion('omni', (0.1,) * 4)))
    for index in range(3):
        rig.image(0.1 * index)
    assert rig.accounts().failed == 3
    assert set(rig.errors) == {"distortion model: expected one of plumb_bob, rational_polynomial, "
                               "equidistant, got 'omni'; rectify the images, and set "
                               'image_rectified'}


def test_a_calibration_that_is_not_usable_leaves_the_map_without_one(
        make: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    def convert() -> Intrinsics:
        raise FrameError('camera_info: expected finite numbers')
    rig = make()
    rig.intake.take_calibration(0, convert)
    rig.image(0.1)
    assert rig.used() == [(0.1, None)]
    assert rig.errors == ['camera_info: expected finite numbers']
    assert any('K, or P with image_rectified' in text for text in warnings(caplog))


def test_a_calibration_of_another_frame_is_used_with_one_warning(
        make: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    rig = make()
    for sec, frame_id in ((0.0, '/camera'), (0.1, 'camera_link'), (0.2, 'camera_link')):
        rig.intake.take_calibration(round(sec * 1e9), lambda: CAMERA, frame_id)
        rig.image(sec)
        assert len(warnings(caplog)) == (sec > 0.0)
    assert [camera for _, camera in rig.used()] == [CAMERA] * 3
    warned, = warnings(caplog)
    assert "of the frame 'camera_link'" in warned and "of 'camera'" in warned
