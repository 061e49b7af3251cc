# SPDX-License-Identifier: Apache-2.0
"""The size of a map's images has to be seen twice: one odd image, even the first, costs itself."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from intake_rig import CAMERA, MakeRig, Rig
from recorded_bags import IMAGE_TOPIC, OrbitBag, stamp_of
from test_replay import Replay, replay, toy, weights  # noqa: F401

from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.mapping.mapping_status import MapUpdate


@pytest.fixture
def make() -> Iterator[MakeRig]:
    rigs = []

    def make(mode: str = 'replay', expected: bool = False, **settings: object) -> Rig:
        rigs.append(Rig(mode, expected, **settings))
        return rigs[-1]
    yield make
    for rig in rigs:
        rig.runner.stop()


def feed(rig: Rig, *sizes: int) -> list[tuple[float, int]]:
    """Pass images of these heights and widths; return stamp and size of those that were used."""
    for index, size in enumerate(sizes):
        rig.image(10.0 + index, size)
    return [(frame.stamp_ns * 1e-9 - 10.0, frame.rgb.shape[0]) for frame in rig.taken]


@pytest.mark.parametrize(('sizes', 'used'), [
    ((48, 96, 96, 96), (1, 2, 3)), ((96, 48, 96, 96), (0, 2, 3)), ((96, 96, 48, 96), (0, 1, 3)),
    ((48, 64, 96, 96), (2, 3)), ((48, 64, 64, 96), (1, 2)), ((96,), (0,)), ((96, 48), (0,))])
def test_the_size_is_the_one_that_is_seen_twice(
        sizes: tuple[int, ...], used: tuple[int, ...], make: MakeRig) -> None:
    rig = make()
    assert [index for index, _ in feed(rig, *sizes)] == list(used)
    rig.intake.drain()
    accounts = rig.accounts()
    assert accounts.balanced and rig.intake.waiting == 0
    assert len(rig.errors) == accounts.failed == len(sizes) - len(used)
    assert accounts.processed == len(used)
    assert accounts.dropped == 0


def test_both_sizes_are_named(make: MakeRig) -> None:
    rig = make()
    assert [size for _, size in feed(rig, *(96, 48) * 4)] == [96] * 4
    assert rig.accounts().failed == 4
    assert set(rig.errors) == {'image: expected 96x96 pixels as the images of the map, got 48x48; '
                               'reset to change the size'}


def test_the_calibration_is_that_of_the_size_that_stays(make: MakeRig) -> None:
    rig = make('replay', True)
    for sec in range(4):
        rig.info(10.0 + sec, CAMERA)
    feed(rig, 48, 96, 96)
    assert rig.used() == [(11.0, CAMERA), (12.0, CAMERA)]


def test_another_map_begins_with_another_size(make: MakeRig) -> None:
    rig = make()
    feed(rig, 96, 96, 48)
    rig.runner.forget_waiting()
    rig.image(20.0, 48)
    rig.image(21.0, 48)
    assert [frame.rgb.shape[0] for frame in rig.taken] == [96, 96, 48, 48]


@pytest.mark.parametrize('odd', [0, 2])
def test_one_odd_image_costs_itself_in_a_bag(
        odd: int, tmp_path: Path, replay: Replay) -> None:  # noqa: F811
    """The map is the one of the other images, and the odd one counts as failed."""
    for name in ('plain', 'odd'):
        with OrbitBag(tmp_path / name) as bag:
            for index in range(12):
                if index != odd:
                    bag.raw(index)
                elif name == 'odd':
                    bag.write_raw_image(IMAGE_TOPIC, stamp_of(index),
                                        bag.picture(index)[::2, ::2].copy())
    plain, summary = (replay(tmp_path / name, output=f'{name}_out') for name in ('plain', 'odd'))
    assert summary['frames'] == {'received': 12, 'processed': 11, 'skipped': 0, 'dropped': 0,
                                 'failed': 1}
    assert summary['sha256'] == plain['sha256']
    assert len(summary['warnings']) == 1 and '48x48' in summary['warnings'][0]


def test_the_images_of_the_map_before_stay_processed_if_a_first_one_is_odd(make: MakeRig) -> None:
    rig = make()
    feed(rig, 96, 96, 96)
    rig.runner.forget_waiting()
    rig.runner.reset()

    def refuse(frame: Frame) -> MapUpdate:
        raise FrameError('odd')
    process = rig.runner._worker._process
    rig.runner._worker._process = lambda frame: (
        refuse(frame) if frame.rgb.shape[0] == 48 else process(frame))
    feed(rig, 48, 96, 96)
    accounts = rig.accounts()
    assert (accounts.processed, accounts.failed) == (5, 1)
    assert rig.runner.map_status.memory.last_reset_reason == 'the first image was an odd one'
