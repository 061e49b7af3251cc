# SPDX-License-Identifier: Apache-2.0
"""Images that show nothing: they are skipped, and map and path are as without them."""
from __future__ import annotations

import logging
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, every_frame, make_mapper, pose_errors, run
from synthetic import SyntheticOptions, orbit_trajectory, render_frames

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
from blind_images import DEFECTS, bag_frames, map_frames, measure, spoil_frames, whole

from spann3r_ros import share_directory
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.core.views import preprocess
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig, SightConfig
from spann3r_ros.mapping.selection.image_content import measure_content
from spann3r_ros.mapping.selection.sight import (
    BLACK,
    BLANK,
    BLURRED,
    FLAT,
    MASKED,
    OVEREXPOSED,
    REPEATED,
    Sight,
)
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree
from spann3r_ros.networks.registry import open_network, resolve_checkpoint

REASONS = {'black': BLACK, 'white': OVEREXPOSED, 'grey': BLANK, 'hand': BLANK, 'wall': BLANK,
           'overexposed': OVEREXPOSED, 'blurred': BLURRED, 'defocused': BLURRED,
           'torn': FLAT, 'no_signal': FLAT, 'frozen': REPEATED}
SECOND_NS = 10**9
BAG = share_directory() / 'bags' / 'demo_room'


def orbit_frames(count: int) -> tuple[list[np.ndarray], list[Frame]]:
    """Return poses and frames whose images carry their index: the network reads no other ones."""
    poses = orbit_trajectory(60)[:count]
    return poses, render_frames(SCENE, poses, CAMERA, indexed=True)


def orbit_mapper(poses: list[np.ndarray], config: MapperConfig | None = None) -> Mapper:
    return make_mapper(poses, SyntheticOptions(index_from_image=True), config)


def path_of(mapper: Mapper) -> np.ndarray:
    return np.array([pose.world_from_camera for pose in mapper.trajectory])


@pytest.fixture(scope='module')
def plain() -> Mapper:
    poses, frames = orbit_frames(8)
    mapper = orbit_mapper(poses)
    run(mapper, frames)
    return mapper


@pytest.mark.parametrize(
    'defect', ['black', 'white', 'wall', 'hand', 'defocused', 'torn', 'frozen'])
def test_images_that_show_nothing_leave_map_and_path_as_without_them(
        defect: str, plain: Mapper, caplog: pytest.LogCaptureFixture) -> None:
    poses, frames = orbit_frames(8)
    spoilt = spoil_frames(frames, defect, 20, inserted=True)
    mapper = orbit_mapper(poses)
    reasons = []
    with caplog.at_level(logging.INFO, 'spann3r_ros.mapping.selection.sight'):
        for index, frame in enumerate(spoilt.frames):
            update = mapper.process(frame)
            blind = frame.stamp_ns in spoilt.blind
            assert (update.skipped, update.blind) == (blind, blind)
            assert (update.live_pose is None) == (blind or index == 0)
            if blind:
                reasons.append(mapper.status().blind_reason)
        status = mapper.status()
        mapper.flush()
    # Repeated images are reported after a second.
    assert set(reasons[10:]) == {REASONS[defect]}
    assert (len(reasons), status.skipped, status.blind_reason) == (20, 0, '')
    np.testing.assert_array_equal(path_of(mapper), path_of(plain))
    np.testing.assert_array_equal(mapper.cloud().points, plain.cloud().points)
    assert mapper.status().fragments == 1
    assert [record.levelname for record in caplog.records] == ['WARNING', 'INFO']
    assert REASONS[defect] in caplog.text and '20 were skipped' in caplog.text


@pytest.mark.parametrize('defect', ['black', 'frozen'])
def test_tracking_resumes_where_the_camera_is_after_it_moved_on_unseen(defect: str) -> None:
    poses, frames = orbit_frames(16)
    mapper = orbit_mapper(poses)
    spoilt = spoil_frames(frames, defect, 5, inserted=False)
    assert sum(update.blind for update in run(mapper, spoilt.frames)) == 5
    assert len(mapper.trajectory) == 11
    assert pose_errors(mapper.trajectory, poses, frames)[0] < 0.03


def test_a_map_begins_with_the_first_image_that_shows_something() -> None:
    poses, frames = orbit_frames(5)
    mapper = orbit_mapper(poses)
    for index in range(3):
        assert mapper.process(replace(
            frames[0], stamp_ns=index, rgb=np.zeros_like(frames[0].rgb))).skipped
    assert mapper.status().phase == 'empty'
    run(mapper, frames)
    assert len(mapper.trajectory) == 5


def test_a_map_begins_with_a_camera_that_stands_still() -> None:
    poses, frames = orbit_frames(4)
    mapper = orbit_mapper(poses)
    still = [replace(frames[0], stamp_ns=frames[0].stamp_ns + index) for index in range(5)]
    assert [mapper.process(frame).skipped for frame in still] == [False] * 2 + [True] * 3
    assert mapper.status().keyframes == 1
    run(mapper, frames[1:])
    assert pose_errors(mapper.trajectory[2:], poses, frames)[0] < 0.01


def test_repeated_images_are_reported_only_if_they_last(
        caplog: pytest.LogCaptureFixture) -> None:
    """A stream of which each image comes three times is no news."""
    poses, frames = orbit_frames(8)
    mapper = orbit_mapper(poses)
    blind = 0
    for frame in frames:
        for delay_ns in range(3):
            blind += mapper.process(replace(frame, stamp_ns=frame.stamp_ns + delay_ns)).blind
            assert mapper.status().blind_reason == ''
    # The second image of the map repeats the first.
    assert blind == 2 * len(frames) - 1
    assert not [record for record in caplog.records if 'skipped' in record.getMessage()]


def test_a_blank_wall_that_fills_the_view_slowly_does_not_end_the_map() -> None:
    poses, frames = orbit_frames(40)
    rng = np.random.default_rng(0)
    blank = DEFECTS['wall'](frames[0].rgb, rng)
    width = CAMERA.width
    views = []
    for index, frame in enumerate(frames):
        # From the right, from image 10 to 20, then for a second, and back as it came.
        share = np.clip(min(index - 10, 40 - index) / 10.0, 0.0, 1.0)
        rgb = frame.rgb.copy()
        rgb[:, round((1.0 - share) * width):] = blank[:, round((1.0 - share) * width):]
        views.append(replace(frame, rgb=rgb))
    mapper = orbit_mapper(poses)
    updates = run(mapper, views)
    status = mapper.status()
    assert status.fragments == 1 and status.memory.resets == 0
    assert 8 <= sum(update.blind for update in updates) <= 14
    assert [update.skipped for update in updates[20:30]] == [True] * 10
    assert pose_errors(mapper.trajectory, poses, views)[0] < 0.05


def test_a_mask_costs_only_its_image() -> None:
    poses, frames = orbit_frames(8)
    mapper = orbit_mapper(poses)
    nothing = np.zeros(frames[0].rgb.shape[:2], bool)
    for frame in frames[:3]:
        mapper.process(frame)
    assert mapper.process(replace(frames[3], mask=nothing)).skipped
    assert mapper.status().blind_reason == MASKED
    with pytest.raises(FrameError, match=r'mask: expected bool \(96, 96\), got bool \(48, 48\)'):
        mapper.process(replace(frames[4], mask=nothing[:48, :48]))
    assert not any(update.blind for update in run(mapper, frames[5:]))
    assert mapper.status().fragments == 1
    assert pose_errors(mapper.trajectory, poses, frames)[0] < 0.03
    assert len(mapper.trajectory) == 6


@pytest.mark.parametrize(('kept', 'is_blind'), [(slice(0, 48), False), (slice(48, 96), True)])
def test_only_what_the_mask_leaves_is_judged(kept: slice, is_blind: bool) -> None:
    poses, frames = orbit_frames(1)
    rgb = frames[0].rgb.copy()
    rgb[:, 48:] = 90
    mask = np.zeros(rgb.shape[:2], bool)
    mask[:, kept] = True
    update = orbit_mapper(poses).process(replace(frames[0], rgb=rgb, mask=mask))
    assert update.skipped is is_blind


def test_a_camera_that_stays_out_of_focus_is_used_again() -> None:
    poses, frames = orbit_frames(10)
    mapper = make_mapper(poses)
    for frame in frames[:5]:
        mapper.process(frame)
    last_ns = frames[4].stamp_ns
    skipped = []
    for index in range(1, 13):
        rgb = DEFECTS['defocused'](frames[5].rgb, np.random.default_rng(0))
        rgb[0, 0] = index  # not repeated
        skipped.append(mapper.process(replace(
            frames[5], rgb=rgb, stamp_ns=last_ns + index * SECOND_NS // 2)).skipped)
        if not skipped[-1]:
            break
    # The third last sharp image is then older than 5 s.
    assert skipped == [True] * 9 + [False]


def test_sight_is_saved_with_the_map() -> None:
    poses, frames = orbit_frames(8)
    mapper = orbit_mapper(poses)
    for frame in [*frames[:5], replace(frames[4], stamp_ns=frames[4].stamp_ns + 1)]:
        mapper.process(frame)
    loaded = orbit_mapper(poses)
    loaded.load(decode_tree(*encode_tree(mapper.tree())))
    for one in (mapper, loaded):
        assert one.process(replace(frames[4], stamp_ns=frames[4].stamp_ns + 2)).skipped
        blurred = DEFECTS['defocused'](frames[5].rgb, np.random.default_rng(0))
        assert one.process(replace(frames[5], rgb=blurred)).skipped
        assert not one.process(frames[6]).skipped


def test_a_map_of_an_earlier_version_has_no_sight() -> None:
    poses, frames = orbit_frames(4)
    mapper = orbit_mapper(poses)
    for frame in frames[:3]:
        mapper.process(frame)
    tree = mapper.tree()
    del tree['state']['sight']
    loaded = orbit_mapper(poses)
    loaded.load(decode_tree(*encode_tree(tree)))
    assert not loaded.process(frames[3]).skipped


def test_the_check_can_be_switched_off() -> None:
    poses, frames = orbit_frames(6)
    mapper = make_mapper(poses, config=every_frame(MapperConfig(sight=SightConfig(check=False))))
    black = replace(frames[3], rgb=np.zeros_like(frames[3].rgb))
    assert not any(update.skipped for update in run(mapper, [*frames[:3], black]))


def test_the_reason_goes_when_the_check_is_switched_off_while_blind() -> None:
    poses, frames = orbit_frames(6)
    mapper = make_mapper(poses)
    black = replace(frames[3], rgb=np.zeros_like(frames[3].rgb))
    for frame in (*frames[:3], black):
        mapper.process(frame)
    assert mapper.status().blind_reason == BLACK
    mapper.configure(every_frame(MapperConfig(sight=SightConfig(check=False))))
    assert not mapper.process(frames[4]).skipped
    assert mapper.status().blind_reason == ''


@pytest.mark.parametrize('size', [(64, 96), (224, 224), (384, 512)])
@pytest.mark.parametrize('color', [(200, 20, 20), (20, 200, 20), (20, 20, 200)])
def test_detail_does_not_depend_on_size_and_color_of_a_pattern(
        size: tuple[int, int], color: tuple[int, int, int]) -> None:
    cells = np.random.default_rng(0).random((12, 12)) < 0.5
    rows, columns = (np.arange(side) * 12 // side for side in size)
    image = (cells[rows][:, columns, None] * np.array(color)).astype(np.uint8)
    content = measure_content(image)
    assert 1.5 < content.detail < 4.0
    assert content.usable == 1.0 and content.bright == 0.0


def test_noise_and_shading_are_no_detail() -> None:
    rng = np.random.default_rng(0)
    shade = np.linspace(20.0, 220.0, 224)[None, :, None] * np.ones((224, 1, 3))
    noisy = np.clip(shade + rng.normal(0.0, 6.0, shade.shape), 0, 255).astype(np.uint8)
    assert measure_content(noisy).detail < 0.2


def test_the_bundled_bag_shows_something_until_it_is_spoilt() -> None:
    sight, rng = Sight(SightConfig()), np.random.default_rng(0)
    for index, frame in enumerate(bag_frames(BAG)):
        if index % 10 == 5:
            for defect, spoil in DEFECTS.items():
                if defect != 'frozen':
                    spoilt = preprocess(replace(frame, rgb=spoil(frame.rgb, rng)), (96, 96))
                    assert deepcopy(sight).is_blind(spoilt, frame.stamp_ns, False), defect
        assert not sight.is_blind(preprocess(frame, (96, 96)), frame.stamp_ns, False)


@pytest.mark.parametrize('inserted', [True, False])
def test_the_bundled_network_goes_on_after_black_images(inserted: bool) -> None:
    """With all 60 images and all defects this is `benchmarks/blind_images.py`."""
    frames = bag_frames(BAG)[:30]
    network = open_network(resolve_checkpoint(''))
    plain = map_frames(network, whole(frames))
    outcome = measure(network, frames, plain, 'black', 20 if inserted else 3, inserted)
    assert (outcome.keyframes, outcome.live, outcome.lost, outcome.fragments) == (0, 0, 0, 1)
    assert outcome.skipped == outcome.spoilt
    assert 1 <= outcome.resumed <= 3
    assert outcome.largest < (1e-9 if inserted else 0.03)
    # Voxels are carved by the time since they were seen, which the black images make longer.
    assert outcome.voxels > (0.99 if inserted else 0.8)
