# SPDX-License-Identifier: Apache-2.0
"""What fails in the back end costs no frame: the keyframe is in the map already."""
from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, make_mapper
from synthetic import SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.mapping import back_end
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.loops import correction
from spann3r_ros.mapping.loops.loop_closer import LoopCloser
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.scale.scale_tracker import ScaleTracker
from spann3r_ros.mapping.storage.map_directory import encode_map, map_hashes
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree

COUNT, FAILS_AT = 14, 6
POSES = orbit_trajectory(40)[:COUNT]
OPTIONS = SyntheticOptions(index_from_image=True, drift=0.004)
LEVEL = MAP_FROM_OPTICAL
FRAMES = [replace(frame, first_pose=None if index < FAILS_AT else LEVEL) for index, frame in
          enumerate(render_frames(SCENE, POSES, CAMERA, indexed=True))]


def mapped(owner: object = None, name: str = '') -> Mapper:
    """Return the map of all frames; `owner.name` fails while frame `FAILS_AT` is processed."""
    mapper = make_mapper(POSES, OPTIONS)
    for index, frame in enumerate(FRAMES):
        if index in (5, 10):
            mapper.new_fragment()
        with pytest.MonkeyPatch.context() as patch:
            if index == FAILS_AT and owner is not None:
                patch.setattr(owner, name, fail)
            update = mapper.process(frame)
        assert not update.failed and update.live_pose is not None or index == 0
        assert len(update.keyframes) == (index > 0)
    return mapper


@cache
def undisturbed() -> dict[str, str]:
    return map_hashes(mapped())


def fail(*_: object, **__: object) -> None:
    raise ArithmeticError('broken')


@pytest.mark.parametrize(('owner', 'name', 'part'), [
    (ScaleTracker, 'observe', 'measuring the scale'),
    (LoopCloser, 'observe', 'looking for a loop'),
    (correction.Correction, 'observe', 'correcting the map'),
    (ScaleTracker, 'priors', 'correcting the map')])
def test_a_part_that_fails_once_costs_no_frame(
        owner: type, name: str, part: str, caplog: pytest.LogCaptureFixture) -> None:
    mapper = mapped(owner, name)
    status = mapper.status()
    assert (status.back_end_failures, status.back_end_reason) == (
        1, f'{part}: ArithmeticError: broken')
    assert caplog.text.count('the back end failed') == caplog.text.count('Traceback') == 1
    assert map_hashes(mapper) == undisturbed()
    loaded = make_mapper(POSES, OPTIONS)
    loaded.load(decode_tree(*encode_tree(mapper.tree())))
    assert loaded.status().back_end_failures == 1
    mapper.reset()
    assert (mapper.status().back_end_failures, mapper.status().back_end_reason) == (0, '')


def test_levelling_that_fails_is_done_with_the_next_keyframe() -> None:
    # The keyframe of frame n is complete with frame n + 1.
    expected, mapper = mapped(), make_mapper(POSES, OPTIONS)
    assert expected.status().revision
    for index, frame in enumerate(FRAMES):
        with pytest.MonkeyPatch.context() as patch:
            if index == FAILS_AT + 1:
                patch.setattr(back_end, 'map_axes', fail)
            assert not mapper.process(frame).failed
        if index == FAILS_AT + 1:
            assert not mapper._state.back_end.levelled and not mapper.status().revision
    assert mapper._state.back_end.levelled and mapper.status().back_end_failures == 1
    np.testing.assert_allclose(
        mapper._state.atlas.fragments[0].map_from_fragment,
        expected._state.atlas.fragments[0].map_from_fragment, atol=0.04)


def test_a_part_that_always_fails_is_logged_once(caplog: pytest.LogCaptureFixture,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoopCloser, 'observe', fail)
    mapper = mapped()
    assert mapper.status().back_end_failures == COUNT - 1 == mapper.status().keyframes
    assert caplog.text.count('the back end failed') == 1


def test_the_end_and_a_save_survive_a_correction_that_fails(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction, 'graph_of', fail)
    mapper = mapped()
    mapper._state.back_end.correction._is_due = True
    mapper._state.atlas.constraints.append(
        Constraint('loop', 0, 1, np.eye(4), 0.01 * np.eye(7)))
    encode_map(mapper)
    assert mapper._state.back_end.is_pending and mapper.status().back_end_failures == 0
    mapper.flush()
    assert not mapper._state.back_end.is_pending and mapper.status().back_end_failures == 1
    assert mapper.status().keyframes == COUNT


def test_fragments_move_together_or_not_at_all() -> None:
    atlas: Atlas = mapped()._state.atlas
    before, unit, revision = atlas.places(atlas.fragments), atlas.unit, atlas.revision
    with pytest.raises(ValueError, match='map_from_fragment: expected a finite similarity'):
        atlas.move_to({0: 2.0 * np.eye(4), 1: np.full((4, 4), np.nan)})
    with pytest.raises(ValueError, match='fragment: expected one of'):
        atlas.move_to({0: np.eye(4), 9: np.eye(4)})
    with pytest.raises(ValueError, match='map_from_fragment'):
        atlas.change_unit(np.diag([2.0, 3.0, 2.0, 1.0]))
    assert atlas.revision == revision
    for one, place in before.items():
        np.testing.assert_array_equal(atlas.fragments[one].map_from_fragment, place)
    assert atlas.unit == unit
