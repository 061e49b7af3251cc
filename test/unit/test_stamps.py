# SPDX-License-Identifier: Apache-2.0
"""Stamps that robots send: zero, wild, back, ahead, and those of a bag that is played again."""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
from intake_rig import SECOND_NS, MakeRig, Rig
from recorded_bags import IMAGE_TOPIC, PERIOD_NS, START_NS, OrbitBag, stamp_of
from test_replay import Replay, replay, toy, weights  # noqa: F401

from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.pipeline.image_clock import Jump
from spann3r_ros.pipeline.node_settings import NodeConfig

HOUR = 3600.0


@pytest.fixture
def make() -> Iterator[MakeRig]:
    rigs = []

    def make(mode: str = 'replay', **settings: object) -> Rig:
        rigs.append(Rig(mode, False, **settings))
        return rigs[-1]
    yield make
    for rig in rigs:
        rig.runner.stop()


def feed(rig: Rig, *seconds: float) -> list[float]:
    """Pass images to a rig; return the stamps of all that were used."""
    for sec in seconds:
        rig.image(sec)
    return [sec for sec, _ in rig.used()]


def tenths(start: float, count: int) -> list[float]:
    return [round(start + 0.1 * index, 1) for index in range(count)]


@pytest.mark.parametrize('mode', ['live', 'replay'])
@pytest.mark.parametrize('wild', [
    [HOUR], [-2.0], [-1.0], [2.0], [5.0], [11.0], [HOUR, -HOUR], [HOUR, HOUR + 0.1], [-2.0, -1.9]])
def test_wild_stamps_cost_their_images_alone(
        wild: Sequence[float], mode: str, make: MakeRig) -> None:
    rig, good = make(mode), tenths(5000.0, 8)
    assert feed(rig, *good[:5], *(good[4] + offset for offset in wild), *good[5:]) == good
    accounts = rig.accounts()
    assert (accounts.processed, accounts.failed, accounts.dropped) == (8, len(wild), 0)
    assert rig.jumps == [] and rig.intake.waiting == 0
    assert len(rig.errors) == len(wild) and 'left out, because the next' in rig.errors[0]
    assert f'({wild[0]:+.3f} s)' in rig.errors[0]


def test_two_clocks_on_one_topic_cost_the_images_of_the_other(make: MakeRig) -> None:
    rig, one = make(), tenths(5000.0, 10)
    other = [sec + HOUR for sec in one]
    assert feed(rig, *itertools.chain(*zip(one, other, strict=True))) == one
    assert rig.accounts().failed == 9 and rig.intake.waiting == 1


@pytest.mark.parametrize('mode', ['live', 'replay'])
@pytest.mark.parametrize(('choice', 'jumps'), [
    ('fragment', [(10.0, Jump.FRAGMENT)]), ('reset', [(10.0, Jump.RESET)]), ('refuse', [])])
def test_a_jump_back_that_lasts_is_believed_after_three_images(
        choice: str, jumps: list, mode: str, make: MakeRig) -> None:
    rig = make(mode, time_jump=choice)
    used = feed(rig, *tenths(50.0, 3), 10.0, 10.1)
    assert (used, rig.jumps) == (tenths(50.0, 3), [])
    assert rig.intake.waiting == (0 if choice == 'refuse' else 2)
    used = feed(rig, *tenths(10.2, 3))
    assert rig.jumps == jumps
    if mode == 'replay':
        assert used == tenths(50.0, 3) + (tenths(10.0, 5) if jumps else [])
    assert rig.accounts().failed == (0 if jumps else 5)
    assert rig.accounts().balanced and rig.intake.waiting == 0


def test_a_pause_goes_on_in_the_same_map(make: MakeRig) -> None:
    rig = make()
    seconds = [*tenths(50.0, 3), *tenths(110.0, 5)]
    assert feed(rig, *seconds) == seconds
    assert (rig.jumps, rig.errors) == ([], [])


def test_a_camera_that_takes_an_image_a_minute_loses_none(make: MakeRig) -> None:
    rig, seconds = make(), [60.0 * index for index in range(10)]
    assert feed(rig, *seconds) == seconds
    # It is known by now that a minute is usual: no image waits for another.
    assert (rig.errors, rig.intake.waiting) == ([], 0)


@pytest.mark.parametrize(('last', 'used'), [
    ([HOUR], 1), ([50.0 + 60.0], 1), ([10.0], 0), ([10.0, 10.1], 2), ([HOUR, HOUR + 0.1], 2)])
def test_the_end_of_a_recording_settles_the_images_aside(
        last: list[float], used: int, make: MakeRig) -> None:
    rig = make()
    feed(rig, *tenths(50.0, 3), *last)
    rig.intake.drain(ended=True)
    rig.runner.call(lambda: None)
    assert len(rig.used()) == 3 + used
    assert (rig.accounts().failed, rig.intake.waiting) == (len(last) - used, 0)
    assert used or 'the recording ends there' in rig.errors[0]


def test_images_aside_are_dropped_with_the_others(make: MakeRig) -> None:
    rig = make('live')
    feed(rig, *tenths(50.0, 3), 10.0)
    rig.intake.drop_waiting()
    assert (rig.accounts().dropped, rig.intake.waiting) == (1, 0)
    assert feed(rig, *tenths(50.3, 2)) == tenths(50.0, 5)


def test_images_aside_are_bounded_in_bytes(make: MakeRig) -> None:
    rig = make('live', max_waiting_bytes=10_000_000)
    for sec in (50.0, 50.1, 10.0, 10.1, 10.2, 10.3):
        rig.intake.take_image(round(sec * SECOND_NS), 'camera',
                              lambda: np.zeros((1080, 1920, 3), np.uint8))
        rig.runner.call(lambda: None)
    # The jump is believed nevertheless.
    assert [sec for sec, _ in rig.used()] == [50.0, 50.1, 10.2, 10.3]
    assert (rig.accounts().dropped, rig.jumps) == (2, [(10.0, Jump.FRAGMENT)])


def test_images_a_few_milliseconds_out_of_order_are_refused_with_a_hint(make: MakeRig) -> None:
    rig = make()
    assert feed(rig, 50.0, 50.1, 50.095, 50.2, 50.2) == [50.0, 50.1, 50.2]
    assert 'out of order' in rig.errors[0] and 'two images have one stamp' in rig.errors[1]
    # Also among images that are kept aside.
    assert feed(rig, 10.0, 10.1, 10.05, 10.2)[3:] == [10.0, 10.1, 10.2]
    assert rig.accounts().failed == 3


def test_a_wild_stamp_ends_no_wait(make: MakeRig) -> None:
    """Waits of a replay are measured by stamps: an hour ahead would end all of them."""
    rig = make(mask='latest')
    feed(rig, *tenths(50.0, 3), 50.2 + HOUR, 50.3)
    assert rig.intake.waiting == 4 and rig.used() == []
    for sec in (49.0, 50.4):
        rig.intake.take_mask(round(sec * SECOND_NS), lambda: np.ones((96, 96), bool))
    for _ in range(4):
        rig.match()
    assert [sec for sec, _ in rig.used()] == tenths(50.0, 4)


def test_waits_begin_anew_after_a_jump_back(make: MakeRig) -> None:
    rig = make(pose_source='tf', pose_timeout_sec=0.5)
    rig.intake._poses._pose_of = lambda frame: np.eye(4) if frame.stamp_ns > 40e9 else None
    feed(rig, *tenths(50.0, 3), *tenths(10.0, 12))
    # None of the later ones has a pose: each is dropped when it has waited for half a second.
    assert rig.accounts().dropped == 6


def test_skipped_images_carry_the_time_on(make: MakeRig) -> None:
    rig = make()
    feed(rig, 50.0)
    rig.intake.enabled = False
    feed(rig, *(50.0 + sec for sec in range(1, 60)))
    rig.intake.enabled = True
    assert feed(rig, 110.0) == [50.0, 110.0]


def test_stamps_of_zero_are_refused_with_the_remedy(make: MakeRig) -> None:
    rig = make()
    assert feed(rig, 0.0, 0.0, 0.0) == [0.0]
    assert rig.accounts().failed == 2
    assert set(rig.errors) == {'stamp: expected the time of the image, got 0 once more: the '
                               'driver sets no time; set stamp_source: receipt'}


def test_the_time_of_receipt_does_not_fit_exact_masks() -> None:
    with pytest.raises(ValueError, match='mask: expected none or latest with the time of receipt'):
        NodeConfig(stamp_source='receipt', mask='exact')


class ZeroBag(OrbitBag):
    """No message has a stamp, as those of a driver without a clock."""

    def _header(self, stamp_ns: int, frame_id: str) -> object:
        return super()._header(0, frame_id)


def test_images_without_stamps_are_mapped_at_the_time_of_recording(
        tmp_path: Path, replay: Replay) -> None:  # noqa: F811
    for name, kind in (('stamped', OrbitBag), ('zero', ZeroBag)):
        with kind(tmp_path / name) as bag:
            for index in range(12):
                bag.info(index)
                bag.raw(index)
    stamped = replay(tmp_path / 'stamped', output='a')
    received = replay(tmp_path / 'zero', '--set', 'stamp_source=receipt', output='b')
    assert received['frames']['processed'] == 12 and received['warnings'] == []
    assert received['sha256'] == stamped['sha256']
    refused = replay(tmp_path / 'zero', output='c')
    assert refused['frames']['failed'] == 11
    warning, = (text for text in refused['warnings'] if 'set stamp_source: receipt' in text)
    assert '(11 times)' in warning


def test_the_reason_of_an_empty_map_is_on_the_screen(
        tmp_path: Path, replay: Replay, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    with ZeroBag(tmp_path / 'bag') as bag:
        bag.write_raw_image(IMAGE_TOPIC, stamp_of(0), np.zeros((96, 96, 3), np.uint8))
        for index in range(3):
            bag.raw(index + 1)
    with pytest.raises(AssertionError):  # of the exit status
        replay(tmp_path / 'bag')
    line, = capsys.readouterr().err.splitlines()
    assert 'the map is empty' in line and 'set stamp_source: receipt (3 times)' in line


def wild_bag(path: Path, count: int, wild: int, offset_ns: int) -> Path:
    """Write a bag in which one image has another stamp than the recorder's clock."""
    with OrbitBag(path) as bag:
        for index in range(count):
            bag.recorded_later_ns = -offset_ns if index == wild else 0
            bag.raw(index, stamp_of(index) - bag.recorded_later_ns)
    return path


@pytest.mark.parametrize('offset_ns', [3600 * SECOND_NS, -2 * SECOND_NS])
def test_one_wild_stamp_in_a_bag_costs_one_image(
        offset_ns: int, tmp_path: Path, replay: Replay) -> None:  # noqa: F811
    summary = replay(wild_bag(tmp_path / 'bag', 60, 30, offset_ns))
    assert (summary['frames']['processed'], summary['frames']['failed']) == (59, 1)
    # 40 keyframes make a fragment.
    assert (summary['poses'], summary['fragments']) == (59, 2)
    assert len(summary['warnings']) == 1


@pytest.mark.parametrize('choice', ['fragment', 'reset', 'refuse'])
def test_a_wild_first_stamp_costs_no_other_image(
        choice: str, tmp_path: Path, replay: Replay) -> None:  # noqa: F811
    summary = replay(wild_bag(tmp_path / 'bag', 8, 0, 3600 * SECOND_NS), '--set',
                     f'time_jump={choice}')
    assert (summary['frames']['processed'], summary['frames']['failed']) == (7, 1)
    assert any('stamp: expected that of the first image' in text for text in summary['warnings'])
    assert (summary['poses'], summary['fragments']) == (7, 1)
    poses = read_tum(tmp_path / 'out' / 'map' / 'trajectory.tum')
    assert [pose.stamp_ns for pose in poses] == [stamp_of(index) for index in range(1, 8)]


@pytest.mark.parametrize('first_ns', [-stamp_of(0), -3600 * SECOND_NS, -20 * SECOND_NS])
def test_a_first_stamp_in_the_past_costs_no_other_image(
        first_ns: int, tmp_path: Path, replay: Replay) -> None:  # noqa: F811
    summary = replay(wild_bag(tmp_path / 'bag', 8, 0, first_ns))
    assert (summary['frames']['processed'], summary['frames']['failed']) == (7, 1)
    assert (summary['poses'], summary['fragments']) == (7, 1)
    assert summary['warnings'] == [text for text in summary['warnings']
                                   if 'stamp: expected that of the first image' in text]
    poses = read_tum(tmp_path / 'out' / 'map' / 'trajectory.tum')
    assert [pose.stamp_ns for pose in poses] == [stamp_of(index) for index in range(1, 8)]


@pytest.mark.parametrize('choice', ['fragment', 'reset'])
def test_blind_images_of_all_maps_are_counted(
        choice: str, tmp_path: Path, replay: Replay) -> None:  # noqa: F811
    with OrbitBag(tmp_path / 'bag') as bag:
        for round_ in range(2):
            bag.recorded_later_ns = round_ * 20 * PERIOD_NS
            for index in range(20):
                picture = bag.picture(index) * (index not in (8, 9))
                bag.write_raw_image(IMAGE_TOPIC, stamp_of(index), picture)
    summary = replay(tmp_path / 'bag', '--set', f'time_jump={choice}')
    assert (summary['frames']['skipped'], summary['blind']) == (4, 4)


@pytest.mark.parametrize('choice', ['fragment', 'reset'])
def test_a_bag_played_three_times_is_one_map_with_a_fragment_each_time(
        choice: str, tmp_path: Path, replay: Replay) -> None:  # noqa: F811
    with OrbitBag(tmp_path / 'bag') as bag:
        bag.mount()
        for round_ in range(3):
            bag.recorded_later_ns = round_ * 20 * PERIOD_NS
            for index in range(20):
                bag.drive(index)
                bag.info(index)
                bag.raw(index)
    summary = replay(tmp_path / 'bag', '--set', f'time_jump={choice}')
    assert summary['frames']['processed'] == 60 and summary['frames']['failed'] == 0
    poses = read_tum(tmp_path / 'out' / 'map' / 'trajectory.tum')
    stamps = [pose.stamp_ns for pose in poses]
    once = [START_NS + index * PERIOD_NS for index in range(20)]
    if choice == 'reset':
        assert (summary['fragments'], stamps) == (1, once)
        return
    assert (summary['fragments'], summary['recovered']) == (3, 0)
    # In the order of mapping, with the recorded stamps; a comment marks where they go back.
    assert stamps == 3 * once and summary['poses'] == 60
    text = (tmp_path / 'out' / 'map' / 'trajectory.tum').read_text()
    assert [index for index, line in enumerate(text.splitlines())
            if line.startswith('# the stamps go back')] == [21, 42]
    assert np.loadtxt(tmp_path / 'out' / 'map' / 'trajectory.tum').shape == (60, 8)
    assert any('jumped back: a fragment begins' in text and text.endswith('reset (2 times)')
               for text in summary['warnings'])


@pytest.mark.parametrize('poses', [(), ('--set', 'pose_source=tf', '--set', 'map_frame=odom')])
def test_a_recording_without_its_static_transforms_says_which_is_missing(
        poses: tuple[str, ...], tmp_path: Path, replay: Replay) -> None:  # noqa: F811
    """As after `ros2 bag play --start-offset`, or of a recorder that came late."""
    with OrbitBag(tmp_path / 'bag') as bag:
        for index in range(6):
            bag.drive(index)
            bag.raw(index)
    if poses:
        # Without a pose no image is mapped.
        with pytest.raises(AssertionError):
            replay(tmp_path / 'bag', *poses)
        found = (tmp_path / 'out' / 'replay.log').read_text().splitlines()
    else:
        found = replay(tmp_path / 'bag')['warnings']
    parent = 'odom' if poses else 'base_link'
    named = [text for text in found if f'TF does not connect {parent} with camera_optical: no '
             'transform from or to camera_optical has come' in text]
    assert len(named) == (6 if poses else 1) and '/tf_static' in named[0]


def test_a_loaded_map_is_not_replaced_by_the_second_image(make: MakeRig) -> None:
    rig = make(time_jump='refuse')
    rig.load()
    assert feed(rig, 50.0, *tenths(10.0, 5)) == [50.0, *tenths(10.0, 5)]
    assert (rig.jumps, rig.accounts().failed) == ([(10.0, Jump.LOADED)], 0)
    with pytest.raises(RuntimeError, match='a loaded map'):
        rig.runner.replace_first()


@pytest.mark.parametrize('wild', [2.0, 5.0, 9.0])
def test_a_stamp_some_seconds_ahead_resets_nothing(wild: float, make: MakeRig) -> None:
    rig = make(time_jump='reset')
    good = [5000.0 + index / 30 for index in range(40)]
    assert len(feed(rig, *good[:30], good[29] + wild, *good[30:])) == 40
    assert (rig.accounts().failed, rig.jumps, rig.intake.waiting) == (1, [], 0)


@pytest.mark.parametrize('step', [0.5, 2.0, 1 / 0.3, 9.0])
def test_a_slow_camera_waits_for_nothing(step: float, make: MakeRig) -> None:
    rig = make('live')
    for index in range(8):
        rig.image(index * step)
        assert rig.intake.waiting == 0
    assert len(rig.used()) == 8 and rig.accounts().dropped == 0
    # One wild stamp resets nothing.
    feed(rig, 7 * step + 2.9 * step, *((7 + index) * step for index in range(1, 8)))
    assert rig.jumps == [] and len(rig.used()) >= 13 and rig.intake.waiting == 0


def test_a_camera_of_irregular_steps_waits_once(make: MakeRig) -> None:
    rig, seconds, waited = make(), np.cumsum([0.5, 5.0] * 10).tolist(), []
    for sec in seconds:
        rig.image(sec)
        waited.append(rig.intake.waiting)
    assert [sec for sec, _ in rig.used()] == seconds and rig.errors == []
    assert sum(waited) <= 3
    # A wild stamp within a usual step costs the images until then, and resets nothing.
    feed(rig, seconds[-1] + 14.0, *(seconds[-1] + 0.5 * index for index in range(1, 31)))
    assert rig.jumps == [] and rig.used()[-1][0] == seconds[-1] + 15.0


@pytest.mark.parametrize('start', [10.0, 110.0])
def test_images_of_a_limited_rate_agree_after_a_jump(start: float, make: MakeRig) -> None:
    rig = make(max_rate=0.5)
    feed(rig, *tenths(50.0, 41))
    assert [sec for sec, _ in rig.used()] == [50.0, 52.0, 54.0]
    feed(rig, *tenths(start, 101))
    used = [sec for sec, _ in rig.used()][3:]
    assert used[0] == start and used[-5:] == [start + 2.0 * index for index in range(1, 6)]
    assert (rig.accounts().failed, rig.intake.waiting) == (0, 0)


@pytest.mark.parametrize('choice', ['fragment', 'reset', 'refuse'])
@pytest.mark.parametrize('is_loaded', [False, True])
def test_the_second_image_may_be_the_wild_one(
        is_loaded: bool, choice: str, make: MakeRig) -> None:
    rig = make(time_jump=choice)
    if is_loaded:
        rig.load()
    used = feed(rig, 50.0, 55.0, *tenths(50.1, 5))
    accounts = rig.accounts()
    assert used[-5:] == tenths(50.1, 5)
    if is_loaded:
        assert (accounts.processed, accounts.failed) == (7, 0)
        assert rig.jumps == [(50.1, Jump.LOADED)] and rig.runner.is_loaded
    else:
        # The map begins again without its two images.
        assert (accounts.processed, accounts.failed) == (5, 2)
        assert rig.jumps == [(50.1, Jump.NOTHING)]


@pytest.mark.parametrize('choice', ['fragment', 'reset', 'refuse'])
def test_a_wild_stamp_after_a_load_leaves_the_loaded_map(choice: str, make: MakeRig) -> None:
    rig = make(time_jump=choice)
    feed(rig, *tenths(10.0, 5))
    rig.load()
    used = feed(rig, 1e6, *tenths(15.0, 5))
    assert used[5:] == [1e6, *tenths(15.0, 5)]
    assert rig.jumps == [(15.0, Jump.LOADED)]
    assert rig.runner.is_loaded and rig.errors == []


@pytest.mark.parametrize('choice', ['fragment', 'reset', 'refuse'])
def test_after_a_load_older_stamps_keep_size_and_calibration_of_the_map(
        choice: str, make: MakeRig) -> None:
    rig = make(time_jump=choice)
    feed(rig, *tenths(50.0, 5))
    rig.load()
    for index, sec in enumerate(tenths(5.0, 5)):
        rig.image(sec, 48 if index in (0, 2) else 96)
    assert rig.jumps == [(5.0, Jump.NOTHING)] and rig.runner.calibration.has_begun
    accounts = rig.accounts()
    # The images before the load stay processed.
    assert (accounts.processed, accounts.failed) == (8, 2)
    assert all('expected 96x96 pixels' in text for text in rig.errors)


def test_a_jump_back_that_is_refused_is_named(make: MakeRig) -> None:
    rig = make(time_jump='refuse')
    feed(rig, *tenths(200_000.0, 3), 100_000.0)
    error, = rig.errors
    assert error.endswith('the stamps went back by 100000.200 s, which time_jump: refuse does not '
                          'allow')


def test_a_jump_back_may_be_refused_while_it_is_recognised(make: MakeRig) -> None:
    rig = make()
    feed(rig, *tenths(50.0, 3), 10.0, 10.1)
    rig.intake.configure(changed(rig.config, time_jump='refuse'))
    rig.intake.drain()
    accounts = rig.accounts()
    assert (accounts.processed, accounts.failed, rig.intake.waiting) == (3, 2, 0)
    assert rig.jumps == [] and all('time_jump: refuse' in text for text in rig.errors)
    assert feed(rig, 50.3)[3:] == [50.3]


def test_a_save_believes_no_single_stamp(make: MakeRig) -> None:
    rig = make(time_jump='reset')
    feed(rig, *tenths(50.0, 3), HOUR)
    rig.intake.drain()
    assert rig.accounts().failed == 1
    assert feed(rig, *tenths(50.3, 3)) == tenths(50.0, 6)


@pytest.mark.parametrize('mode', ['live', 'replay'])
@pytest.mark.parametrize('seed', range(6))
def test_each_image_has_one_outcome_whatever_comes(
        seed: int, mode: str, make: MakeRig) -> None:
    rng = np.random.default_rng(seed)
    rig, sec, sent = make(mode), 1000.0, 0
    for _ in range(300):
        event = rng.choice(['image', 'wild', 'jump', 'odd', 'load', 'reset', 'drain', 'drop',
                            'configure', 'open'], p=[.75, .06, .03, .06] + [.1 / 6] * 6)
        loaded, jumps = rig.runner.is_loaded, len(rig.jumps)
        resets = rig.runner.map_status.memory.resets
        if event in ('image', 'wild', 'jump', 'odd'):
            sec += rng.choice([0.03, 0.5, 3.0], p=[.8, .15, .05])
            offset = rng.choice([-50.0, -2.0, -0.5, 0.7, 5.0, 50.0, HOUR])
            sec += offset if event == 'jump' else 0.0
            rig.image(sec + (offset if event == 'wild' else 0.0), 48 if event == 'odd' else 96)
            sent += 1
        elif event == 'load':
            rig.load()
        elif event == 'reset':
            rig.intake.drop_waiting()
            rig.runner.forget_waiting()
            rig.runner.reset()
        elif event == 'drain':
            rig.intake.drain(ended=bool(rng.integers(2)))
        elif event == 'configure':
            rig.intake.configure(changed(rig.config, time_jump=str(
                rng.choice(['fragment', 'reset', 'refuse']))))
        else:
            rig.intake.drop_waiting()
            if event == 'open':
                rig.open()
        rig.runner.call(lambda: None)
        accounts = rig.accounts()
        assert accounts.balanced and accounts.received + rig.intake.waiting == sent
        assert min(vars(accounts).values()) >= 0
        # A loaded map ends by a jump of `time_jump: reset`, or if somebody asks for it.
        if loaded and event != 'reset' and rig.runner.map_status.memory.resets > resets:
            assert Jump.RESET in [kind for _, kind in rig.jumps[jumps:]]
    rig.intake.drain(ended=True)
    rig.runner.call(lambda: None)
    accounts = rig.accounts()
    assert (accounts.received, rig.intake.waiting) == (sent, 0)
    if mode == 'replay':
        assert accounts.processed > 100
