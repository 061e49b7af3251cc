# SPDX-License-Identifier: Apache-2.0
"""The scale of a map whose poses are solved: measured from odometry or depth, then applied."""
from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from robot_rides import CAMERA, SCENE, STEPS, Ride, mounted, ride, true_keyframes
from synthetic import SyntheticNetwork, SyntheticOptions, every_frame, render_frames

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert, similarity_scale
from spann3r_ros.core.types import Frame, Pointmap
from spann3r_ros.core.views import fit_depth
from spann3r_ros.datasets.layouts import detect_layout, read_videos
from spann3r_ros.mapping.front_end import LOST
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import FragmentConfig, MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.scale.odometry_scale import (
    OdometryPairs,
    Pair,
    PassedView,
    fit_drifting_pairs,
    fit_pairs,
)
from spann3r_ros.mapping.scale.scale_config import ScaleConfig
from spann3r_ros.mapping.scale.scale_fit import ScaleFit, ScaleSeries
from spann3r_ros.mapping.scale.scale_tracker import RECENT_M, SCALE_CHANGED
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree
from spann3r_ros.mapping.tracking.corner_tracks import to_gray

ASIDE = mounted(left_deg=70.0)
UNIT = 0.37  # metres per unit of the network
CONFIG = ScaleConfig()
BURSTS = [*range(20, 30), *range(90, 100)]  # each of one second

WINDING = ride(8.0, lambda time: 0.25 * (1.0 - math.cos(1.5 * time)),
               lambda time: 0.5 * math.cos(0.8 * time), start=(-1.2, -1.2, 0.1))


def error(fit: ScaleFit) -> float:
    """Return the error of the logarithm of a scale."""
    return fit.log_scale - math.log(UNIT)


def deviation(fit: ScaleFit) -> float:
    """Return the relative standard deviation of a scale, as it is reported."""
    return math.hypot(math.sqrt(fit.variance), CONFIG.source_deviation)


def fitted(pairs: Sequence[Pair]) -> ScaleFit | None:
    return fit_pairs(pairs, CONFIG.mount_deviation)


def pairs_of(on: Ride, mount: np.ndarray, believed: np.ndarray | None = None,
             samples: int = 1, **spoilt: object) -> list[Pair]:
    """Return the pairs of true keyframes by odometry; TF has the camera at `believed`."""
    pairs = OdometryPairs()
    odometry = on.odometry(mount if believed is None else believed, **spoilt)
    return [pair for keyframe, pose in
            zip(true_keyframes(on.cameras(mount), UNIT, samples), odometry, strict=True)
            for pair in pairs.add(keyframe, pose)]


def measure(on: Ride, mount: np.ndarray, believed: np.ndarray | None = None,
            **spoilt: object) -> ScaleFit | None:
    return fitted(pairs_of(on, mount, believed, **spoilt))


@pytest.mark.parametrize('left_deg', [0.0, 45.0, 70.0, 90.0])
def test_one_metre_with_slip_gives_the_scale(left_deg: float) -> None:
    """Also with a view along the motion, or of a wall across it."""
    straight = ride(2.1, lambda _: 0.5, lambda _: 0.0)
    assert straight.way < 1.01
    for seed, slips in enumerate(((4, 13), (2, 3), (9, 18))):  # a tenth of the periods
        # Pixels without a mean would move by jumps, which limits views along and across.
        fit = measure(straight, mounted(left_deg=left_deg), samples=2, seed=seed, slips=slips)
        assert abs(error(fit)) < 0.03
        assert abs(error(fit)) < 3.0 * deviation(fit) < 0.2


def test_seconds_of_slip_do_not_spoil_the_scale() -> None:
    there_and_back = ride(14.0, lambda time: 0.5 if time % 8.0 < 4.0 else -0.5, lambda _: 0.0)
    pairs = pairs_of(there_and_back, mounted(left_deg=45.0), slips=BURSTS)
    assert abs(error(fitted(pairs))) < 0.03
    series = ScaleSeries(RECENT_M)
    for pair in pairs:
        series.add(pair)
        assert series.change(fitted) is None


def test_a_rotation_gives_no_scale() -> None:
    """Also if the camera is not where TF has it: then it moves, but not by the odometry."""
    turning = ride(4.0, lambda _: 0.0, lambda _: 0.7, start=(-0.2, -1.2, 0.0))
    axle = mounted(0.0)
    assert measure(turning, axle) is None
    assert measure(turning, mounted(0.3), axle) is None


def test_a_rotation_adds_nothing_to_a_known_scale() -> None:
    """On the axle it makes no pairs; beside it, pairs of the mount's uncertainty."""
    straight_sec = 3.5
    on = ride(12.0, lambda time: 0.5 if time < straight_sec else 0.0,
              lambda time: 0.0 if time < straight_sec else 0.7)
    for mount in (mounted(0.0, left_deg=70.0), mounted(0.5, left_deg=70.0)):
        pairs = pairs_of(on, mount)
        straight = [one for one in pairs if np.allclose(one.turned, np.eye(3), atol=1e-6)]
        assert len(straight) > 12
        before, after = fitted(straight), fitted(pairs)
        # As many pairs of a way would leave half of it.
        assert len(pairs) == len(straight) or len(pairs) >= 2 * len(straight)
        assert after.variance > 0.7 * before.variance
        assert abs(error(after)) < 3.0 * deviation(after)


def test_a_camera_beside_the_axle_gives_the_scale_as_well_as_its_mount_is_known() -> None:
    turning = ride(4.0, lambda _: 0.0, lambda _: 0.7, start=(-0.2, -1.2, 0.0))
    fit = measure(turning, mounted(0.5))
    assert abs(error(fit)) < 0.05
    # 5 cm of 50 cm.
    assert 0.08 < deviation(fit) < 0.13
    for wrong in (-0.1, 0.1):
        fit = measure(turning, mounted(0.5 + wrong), mounted(0.5))
        assert 0.1 < abs(error(fit)) < 3.0 * deviation(fit)


def test_a_way_with_straight_parts_does_not_depend_on_the_mount() -> None:
    fit = measure(WINDING, mounted(0.4, left_deg=30.0), mounted(0.3, left_deg=30.0))
    assert abs(error(fit)) < 0.03
    assert abs(error(fit)) < 3.0 * deviation(fit) < 0.12


@pytest.mark.parametrize('late_sec', [-0.05, 0.05])
def test_late_odometry_spoils_no_scale(late_sec: float) -> None:
    curve = ride(3.5, lambda _: 0.5, lambda _: 0.5, start=(0.0, -1.3, 0.0))
    for one in (curve, WINDING):
        fit = measure(one, mounted(0.4, left_deg=30.0), late_sec=late_sec)
        assert abs(error(fit)) < min(0.05, 3.0 * deviation(fit))


# Keyframes are as far apart as the default settings make them in this room: seven frames, 0.35 m.

LAP = ride(11.0, lambda time: 0.5 if time < 5.5 else -0.5, lambda _: 0.0).base[:1100]
STEP_M = 0.05
FRAMES_A_KEYFRAME = 7


def found_change(way_m: float, seed: int, changes: Callable[[float], float]) -> float | None:
    """Return after which way a change of the scale is found, with slip in a tenth of the periods.

    `changes` returns by how much the logarithm of the network's unit has changed after a way.
    """
    laps = math.ceil((way_m + 2.0 * STEP_M) / 5.5)
    on = Ride(np.concatenate([LAP] * laps)[:round(way_m / STEP_M + 2) * STEPS])
    count = len(on.base) // STEPS
    slips = np.random.default_rng(seed).choice(count, count // 10, replace=False)
    odometry = on.odometry(ASIDE, seed=seed, slips=slips)
    pairs, series = OdometryPairs(), ScaleSeries(RECENT_M)
    for index, keyframe in enumerate(true_keyframes(on.cameras(ASIDE), UNIT)):
        if index % FRAMES_A_KEYFRAME:
            pairs.pass_by(PassedView(keyframe.stamp_ns, to_gray(keyframe.image), CAMERA,
                                     odometry[index]))
            continue
        factor = np.float32(math.exp(changes(index * STEP_M)))
        for pair in pairs.add(replace(keyframe, depth=keyframe.depth * factor), odometry[index]):
            series.add(pair)
            if series.change(fitted) or series.drift(
                    lambda some: fit_drifting_pairs(some, CONFIG.mount_deviation)):
                return index * STEP_M
    return None


@pytest.mark.parametrize('seed', range(2))
def test_noise_and_slip_are_no_change_of_the_scale(seed: int) -> None:
    assert found_change(30.0, seed, lambda _: 0.0) is None


@pytest.mark.parametrize(('ramp_m', 'median_m', 'most_m'), [(0.01, 1.5, 4.0), (3.0, 3.0, 4.0),
                                                            (6.0, 4.5, 5.5)])
def test_a_change_of_a_tenth_is_found(ramp_m: float, median_m: float, most_m: float) -> None:
    """At once, over three metres, and over six: on most rides before it is over."""
    begin_m = 4.0
    found = [found_change(begin_m + most_m + 1.0, seed, lambda way: math.log(1.1) * min(
        max((way - begin_m) / ramp_m, 0.0), 1.0)) for seed in range(4)]
    ways = np.array([np.inf if one is None else one - begin_m for one in found])
    assert ways.min() > 0.0
    assert np.median(ways) <= median_m and ways.max() <= most_m


# The mapper.

STRAIGHT = ride(6.0, lambda _: 0.5, lambda _: 0.0)


class Run:
    """A mapper on a network whose unit is `UNIT`, and what it made of a ride."""

    def __init__(self, on: Ride = STRAIGHT, source: str = 'odometry', *, changes_at: int = 10**9,
                 change: float = 1.1, **scale: float) -> None:
        self.cameras = list(on.cameras(ASIDE))
        self.frames = [replace(frame, first_pose=ASIDE)
                       for frame in render_frames(SCENE, self.cameras, CAMERA)]
        if source in ('odometry', 'auto'):
            self.frames = [replace(frame, odometry=pose) for frame, pose in
                           zip(self.frames, on.odometry(ASIDE, slips=(7, 22)), strict=True)]
        network = ChangingNetwork(SCENE, self.cameras, SyntheticOptions(unit=UNIT), CAMERA)
        network.changes_at, network.change = changes_at, change
        self.mapper = Mapper(network, every_frame(MapperConfig(
            scale=ScaleConfig(source, **scale), fragments=FragmentConfig(max_keyframes=0))))
        self.updates: list[MapUpdate] = []

    def __iter__(self) -> Iterator[int]:
        """Process frame by frame; yield the index of the last one."""
        for index, frame in enumerate(self.frames):
            self.updates.append(self.mapper.process(frame))
            yield index

    def factor(self) -> float:
        """Return the length of the newest part of the path by that of the truth."""
        path = self.mapper.path().map_from_camera[-8:, :3, 3]
        end = len(self.mapper.path().stamps_ns)
        truth = np.array(self.cameras)[end - 8:end, :3, 3]
        return float(np.linalg.norm(path[-1] - path[0]) / np.linalg.norm(truth[-1] - truth[0]))


class ChangingNetwork(SyntheticNetwork):
    """From an image on it answers in another unit, until its memory is reset.

    Places up to there are as before: the map grows from there on.
    """

    changes_at = 10**9
    change = 1.0

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        pointmap = super()._pointmap(index, origin)
        begin = max(self.changes_at, origin)
        if index <= begin or origin > self.changes_at:
            return pointmap
        to_begin = invert(self.poses[origin]) @ self.poses[begin]
        fixed = (to_begin[:3, 3] / self.options.unit).astype(np.float32)
        return replace(pointmap, points=fixed + np.float32(self.change) * (
            pointmap.points - fixed))


def test_the_map_becomes_metric_about_its_first_camera() -> None:
    run = Run()
    for index in run:
        status = run.mapper.status()
        if status.scale.metric:
            break
        assert (status.scale.value, status.scale.variance) == (1.0, math.inf)
        assert index < 9 or abs(run.factor() * UNIT - 1.0) < 0.01
    assert index * 0.05 < 1.1
    assert abs(run.factor() - 1.0) < 0.03
    assert (status.scale.value, status.scale.source) == (1.0, 'odometry')
    assert 0.02 < math.sqrt(status.scale.variance) <= CONFIG.max_deviation
    assert run.updates[-1].moved == (0,) and run.updates[-1].revision == 1
    # The first camera stays 1.2 m above the floor.
    assert np.allclose(run.mapper.path().map_from_camera[0], ASIDE, atol=1e-5)
    points = run.mapper.cloud().points
    assert abs(np.quantile(points[:, 2], 0.02)) < 0.08
    assert np.allclose(run.mapper.snapshot().voxel_size, status.voxel_size)


def test_without_a_source_and_without_odometry_nothing_moves() -> None:
    for run in (Run(source='none'), Run(source='odometry')):
        run.frames = [replace(frame, odometry=None) for frame in run.frames][:15]
        for _ in run:
            pass
        assert not run.mapper.status().scale.metric and run.mapper.status().revision == 0


def test_a_later_fragment_inherits_the_scale_and_the_size_of_voxels() -> None:
    run = Run()
    for index in run:
        if index == 40:
            before = run.mapper.status()
            run.mapper.new_fragment()
        if index == 45:
            break
    status = run.mapper.status()
    assert (before.fragment_id, status.fragment_id) == (0, 1)
    assert status.scale.metric and status.scale.variance > before.scale.variance
    assert abs(run.factor() - 1.0) < 0.03
    places = run.updates[-1].places | run.mapper._state.atlas.places((0, 1))
    assert np.isclose(similarity_scale(places[0]), similarity_scale(places[1]), rtol=0.03)
    assert status.voxel_size == before.voxel_size


def test_a_change_of_the_scale_begins_a_fragment_with_the_right_one() -> None:
    """The network's unit changes by ten per cent after two metres."""
    there_and_back = ride(11.0, lambda time: 0.5 if time < 5.5 else -0.5, lambda _: 0.0)
    run = Run(there_and_back, changes_at=40)
    for index in run:
        if run.mapper.status().fragment_id and index > 0:
            break
    changed_m = (index - 40) * 0.05
    assert 0.5 < changed_m < 3.0
    for _ in range(12):
        index += 1
        run.mapper.process(run.frames[index])
    assert abs(run.factor() - 1.0) < 0.05
    assert run.mapper.status().memory.recoveries == 0
    # The join agrees with the places, so that a pose graph would leave the fragments there.
    atlas = run.mapper._state.atlas
    join = next(one for one in atlas.constraints if one.second == 1)
    scales = [similarity_scale(atlas.fragments[one].map_from_fragment) for one in (0, 1)]
    assert similarity_scale(join.first_from_second) == pytest.approx(scales[1] / scales[0],
                                                                     rel=0.02)
    assert abs(math.log(scales[1] / scales[0])) > 0.05


class DriftingNetwork(SyntheticNetwork):
    """The unit of its sequences is multiplied by `factors` [n]; it knows the images by `seen`."""

    factors: np.ndarray
    seen: dict[bytes, int]

    def _index_of(self, image: np.ndarray) -> int:
        return self.seen[image.tobytes()]

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        points = self.scene.render(self.poses[index], self.intrinsics)[1]
        steps = np.diff(np.array(self.poses)[origin:index + 1, :3, 3], axis=0)
        moved = (self.factors[origin:index, None] * steps).sum(axis=0)
        turned = self.poses[origin][:3, :3].T
        points = (self.factors[index] * points @ (turned @ self.poses[index][:3, :3]).T
                  + turned @ moved)
        return Pointmap((points / self.options.unit).astype(np.float32),
                        np.full(points.shape[:2], 0.9, np.float32))


def test_a_drift_of_the_scale_begins_a_fragment_with_the_default_settings() -> None:
    """Ten per cent over three metres, with slip in a tenth of the periods."""
    begin_m, on = 2.5, Ride(np.concatenate([LAP, LAP])[:1500])
    cameras = list(on.cameras(ASIDE))
    slips = np.random.default_rng(1).choice(150, 15, replace=False)
    odometry = on.odometry(ASIDE, seed=1, slips=slips)
    frames = [replace(frame, first_pose=ASIDE, odometry=pose) for frame, pose in
              zip(render_frames(SCENE, cameras, CAMERA), odometry, strict=True)]
    network = DriftingNetwork(SCENE, cameras, SyntheticOptions(unit=UNIT), CAMERA)
    way = STEP_M * np.arange(len(cameras))
    network.factors = 1.1**np.clip((way - begin_m) / 3.0, 0.0, 1.0)
    network.seen = {}
    mapper = Mapper(network, MapperConfig(scale=ScaleConfig('odometry')))
    begun = None
    for index, frame in enumerate(frames):
        network.seen[frame.rgb.tobytes()] = index  # the way back shows the same images
        mapper.process(frame)
        if begun is None and mapper.status().fragment_id:
            begun = way[index]
    status = mapper.status()
    assert status.memory.last_reset_reason == SCALE_CHANGED and status.memory.recoveries == 0
    assert begin_m < begun < begin_m + 4.0
    path = mapper.path()
    last = np.array([(stamp - 10**9) // 10**8 for stamp in path.stamps_ns])[-5:]
    lengths = [np.linalg.norm(np.diff(places, axis=0), axis=1).sum() for places in
               (path.map_from_camera[-5:, :3, 3], np.array(cameras)[last, :3, 3])]
    assert abs(lengths[0] / lengths[1] - 1.0) < 0.04


def test_a_steady_scale_begins_no_fragment() -> None:
    run = Run(ride(11.0, lambda time: 0.5 if time < 5.5 else -0.5, lambda _: 0.0))
    for _ in run:
        pass
    assert run.mapper.status().fragment_id == 0
    assert abs(run.factor() - 1.0) < 0.03


def test_given_depth_gives_the_scale() -> None:
    run = Run(source='depth')
    rng = np.random.default_rng(0)
    for index, frame in enumerate(run.frames[:12]):
        metres = SCENE.render(run.cameras[index], CAMERA)[1][..., 2].astype(np.float32)
        metres *= 1.0 + 0.02 * rng.standard_normal(metres.shape).astype(np.float32)
        metres[rng.random(metres.shape) < 0.3] = 0.0
        run.mapper.process(replace(frame, depth=metres))
    status = run.mapper.status()
    assert status.scale.metric and status.scale.source == 'depth'
    assert abs(run.factor() - 1.0) < 0.01


def test_a_known_number_may_change_while_the_map_grows() -> None:
    run = Run(source='number', metres_per_unit=1.0)
    for frame in run.frames[:12]:
        run.mapper.process(frame)
    assert run.mapper.status().scale.metric
    assert abs(run.factor() * UNIT - 1.0) < 0.01
    run.mapper.configure(every_frame(MapperConfig(
        scale=ScaleConfig('number', metres_per_unit=UNIT),
        fragments=FragmentConfig(max_keyframes=0))))
    for frame in run.frames[12:16]:
        run.mapper.process(frame)
    assert abs(run.factor() - 1.0) < 0.01
    assert (run.mapper.status().scale.source, run.mapper.status().scale.variance) == (
        'number', 0.0)


def test_given_poses_leave_the_source_alone() -> None:
    run = Run()
    for frame, pose in zip(run.frames[:24], run.cameras, strict=False):
        run.mapper.process(replace(frame, world_from_camera=pose))
    assert run.mapper.status().scale.source == 'poses'
    assert run.mapper.status().revision == 0


@pytest.mark.parametrize('stop', [12, 26])
def test_a_saved_map_goes_on_with_the_same_scale(stop: int) -> None:
    """Before the map is metric, and after."""
    run = Run()
    for frame in run.frames[:stop]:
        run.mapper.process(frame)
    saved = encode_tree(run.mapper.tree())
    loaded = Mapper(deepcopy(run.mapper._memory._network), run.mapper._config)
    loaded.load(decode_tree(*saved))
    for frame in run.frames[stop:32]:
        run.mapper.process(frame)
        loaded.process(frame)
    assert run.mapper.status().scale.metric
    assert loaded.status().scale == run.mapper.status().scale
    assert np.array_equal(loaded.path().map_from_camera, run.mapper.path().map_from_camera)
    assert np.array_equal(loaded.cloud().points, run.mapper.cloud().points)


def test_an_explicit_voxel_size_is_one_of_the_map_as_it_began() -> None:
    run = Run()
    config = replace(run.mapper._config, voxel_map=VoxelMapConfig(voxel_size=0.1))
    mapper = Mapper(run.mapper._memory._network, config)
    for frame in run.frames[:30]:
        mapper.process(frame)
    assert mapper.status().scale.metric
    assert math.isclose(mapper.status().voxel_size, 0.1 * UNIT, rel_tol=0.03)


def test_a_frame_may_have_a_distorted_or_cropped_depth() -> None:
    """It is fitted as its image."""
    wide = replace(CAMERA, width=192, cx=95.5)
    rgb = np.zeros((128, 192, 3), np.uint8)
    depth = np.tile(np.arange(192, dtype=np.float32), (128, 1))
    fitted = fit_depth(Frame(1, 'camera', rgb, wide, depth=depth), (128, 128))
    assert np.array_equal(fitted[0], np.arange(32, 160))


@pytest.mark.parametrize(('bias', 'limit'), [(0.0, 0.05), (0.05, 0.1)])
def test_a_real_recording_gives_its_scale(bias: float, limit: float) -> None:
    """Its depth is the network's, off by a smooth bias of the image; its poses are odometry."""
    folder = os.environ.get('SPANN3R_RGBD')
    if not folder:
        pytest.skip('SPANN3R_RGBD: no folder of a recording with depth and poses given')
    sequence = next(read_videos(Path(folder), detect_layout(Path(folder))))
    rng, size = np.random.default_rng(0), (224, 224)
    field = cv2.resize(rng.standard_normal((5, 5)), size[::-1], interpolation=cv2.INTER_CUBIC)
    cutter, pairs = OdometryPairs(), []
    for index in range(min(150, len(sequence.views))):
        view = sequence.load(index, size)
        depth = np.where(view.valid, view.points[..., 2] * (1.0 + bias * field) / UNIT, np.nan)
        pairs += cutter.add(Keyframe(
            10**9 + index * 10**8, 'camera', 0, view.image, view.intrinsics,
            depth.astype(np.float32), view.valid.astype(np.float32), None), view.world_from_camera)
    fits = [fitted(pairs[first:first + 10])
            for first in range(0, len(pairs) - 10, 5)]
    assert len(fits) > 4 and None not in fits
    assert max(abs(error(fit)) for fit in fits) < limit
    assert max(abs(error(fit)) / deviation(fit) for fit in fits) < 3.0


def test_depth_without_an_error_costs_no_frame() -> None:
    run = Run(source='depth')
    for frame, camera in zip(run.frames[:10], run.cameras, strict=False):
        metres = SCENE.render(camera, CAMERA)[1][..., 2].astype(np.float32)
        assert not run.mapper.process(replace(frame, depth=metres)).failed
    assert run.mapper.status().scale.metric


def test_a_fragment_at_an_assumed_place_measures_its_own_scale() -> None:
    run = Run()
    network = SyntheticNetwork(SCENE, run.cameras, SyntheticOptions(unit=UNIT, stretch=1 / 1.6),
                               CAMERA)
    mapper, deviations = Mapper(network, run.mapper._config), []
    for index, frame in enumerate(run.frames[:58]):
        mapper.process(frame)
        deviations.append(math.sqrt(mapper.status().scale.variance))
        if index == 25:
            # Nothing connects the next fragment, whose unit is another one.
            state = mapper._state
            state.restart(LOST)
            state.poses._corners.stop()
            state.poses._filter.forget()
    fragment = mapper._state.atlas.current
    assert not fragment.connected and fragment.scale.metric
    assert deviations[25] < 0.06 and max(deviations[26:]) > 0.3
    numbers = [[one.stamp_ns for one in run.frames].index(stamp) for stamp in fragment.path.stamps]
    true = np.array(run.cameras)[numbers, :3, 3]
    found = (fragment.map_from_fragment @ fragment.path.transforms)[:, :3, 3]
    length = np.linalg.norm(found[-1] - found[0]) / np.linalg.norm(true[-1] - true[0])
    assert abs(length - 1.0) < 0.06
