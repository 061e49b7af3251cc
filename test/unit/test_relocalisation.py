# SPDX-License-Identifier: Apache-2.0
"""The camera is found again in a map: after a load, a covered lens, or if it was carried away."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from oracle import EXACT, OracleErrors, TrueView, TwinRooms, ViewsNetwork, World
from synthetic import SyntheticOptions, SyntheticScene, every_frame, look_at, square_camera

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert
from spann3r_ros.core.types import DeviceMemoryError, Frame, Pointmap
from spann3r_ros.mapping.exports.map_content import read_content
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.fragments.groups import unlocated
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    CarvingConfig,
    FragmentConfig,
    LoopConfig,
    MapperConfig,
    PoseConfig,
)
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.relocalisation.hint import Hint
from spann3r_ros.mapping.relocalisation.relocalisation_config import RelocalisationConfig
from spann3r_ros.mapping.scale.scale_config import ScaleConfig
from spann3r_ros.mapping.storage.map_directory import encode_map, map_hashes
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree
from spann3r_ros.viewer.map_scene import saved_scene, scene_of

CAMERA = square_camera(64)
PERIOD_NS = 10**8
ON = RelocalisationConfig(enabled=True)
MAPPED, SEEN, LENS = 44, 12, 50


def orbit(count: int, radius: float = 1.3, height: float = 1.2, start: float = 0.0,
          step: float = 2.0 * np.pi / MAPPED, middle: float = 0.0) -> list[np.ndarray]:
    angles = start + step * np.arange(count)
    return [look_at(np.array([middle + radius * np.cos(a), radius * np.sin(a), height]),
                    np.array([middle, 0.0, height])) for a in angles]


@lru_cache(maxsize=1)
def views() -> list[TrueView]:
    """Return the mapped views of a room, then others of it, then those of two other rooms."""
    room = World(SyntheticScene())
    poses = orbit(MAPPED) + orbit(SEEN, 1.2, 1.25, start=2.5)
    other = World(SyntheticScene(6.0, 3.6, 3.0), style=(1.7, 0.9, 2.3))
    mirrored = World(SyntheticScene(), mirrored=True)
    return ([room.view(one, CAMERA, 0) for one in poses]
            + [other.view(one, CAMERA, 1) for one in orbit(SEEN, 1.1)]
            + [mirrored.view(one, CAMERA, 2) for one in orbit(MAPPED)])


def config(relocalisation: RelocalisationConfig = ON, **others: object) -> MapperConfig:
    return every_frame(MapperConfig(relocalisation=relocalisation, live_pose=False, **others))


def network(pairs: OracleErrors = EXACT, known: Sequence[TrueView] | None = None,
            kind: type[ViewsNetwork] = ViewsNetwork) -> ViewsNetwork:
    # Each sequence has a unit of its own.
    return kind(views() if known is None else known, pairs, SyntheticOptions(stretch=1.7))


def frames(shown: Sequence[TrueView], first_ns: int = 10**9) -> list[Frame]:
    return [Frame(first_ns + index * PERIOD_NS, 'camera', view.image, CAMERA)
            for index, view in enumerate(shown)]


@lru_cache(maxsize=1)
def saved() -> tuple[bytes, bytes]:
    """Return the map of the first views."""
    mapper = Mapper(network(), config())
    for frame in frames(views()[:MAPPED]):
        assert not mapper.process(frame).failed
    return encode_tree(mapper.tree())


def loaded(relocalisation: RelocalisationConfig = ON, answering: ViewsNetwork | None = None,
           **others: object) -> Mapper:
    mapper = Mapper(answering or network(), config(relocalisation, **others))
    mapper.load(decode_tree(*saved()))
    return mapper


def again() -> list[TrueView]:
    return views()[MAPPED:MAPPED + SEEN]


@dataclass(frozen=True)
class Errors:
    """Largest errors: of the position, as a share of the depth and in metres, and in degrees."""

    share: float
    metres: float
    degrees: float


def errors(mapper: Mapper, shown: dict[int, TrueView]) -> Errors:
    """Return the errors of the path's poses at these stamps against the truth."""
    origin = MAP_FROM_OPTICAL @ invert(views()[0].world_from_camera)
    found = {one.stamp_ns: one.world_from_camera for one in mapper.trajectory}
    metres, shares, degrees = [], [], []
    for stamp, view in shown.items():
        error = invert(origin @ view.world_from_camera) @ found[stamp]
        metres.append(np.linalg.norm(error[:3, 3]))
        shares.append(metres[-1] / np.median(view.depth))
        degrees.append(np.degrees(np.arccos(np.clip(0.5 * (np.trace(error[:3, :3]) - 1), -1, 1))))
    return Errors(max(shares), max(metres), max(degrees))


def until_located(mapper: Mapper, shown: Sequence[Frame]) -> tuple[int, MapUpdate]:
    """Return after how many keyframes the camera is located, and the update that says so."""
    keyframes = 0
    for frame in shown:
        update = mapper.process(frame)
        keyframes += len([one for one in update.keyframes if one.stamp_ns >= shown[0].stamp_ns])
        if update.located:
            return keyframes, update
    raise AssertionError(f'not located: {mapper.status().localisation_reason}')


@pytest.mark.parametrize(('pairs', 'most'), [(EXACT, Errors(0.02, 0.05, 2.0)),
                                             (OracleErrors(), Errors(0.05, 1.0, 5.0))])
def test_a_known_view_is_located_by_two_keyframes(pairs: OracleErrors, most: Errors) -> None:
    mapper = loaded(answering=network(pairs))
    before, poses = mapper.cloud(), len(mapper.trajectory)
    shown = frames(again(), 10**10)
    assert (mapper.status().localisation, mapper.is_located) == ('searching', False)
    mapper.process(shown[0])
    update = mapper.process(shown[1])
    # What is not located is in no view of the map, and the pose says so.
    assert not update.located and update.keyframes[0].fragment_id in update.unlocated
    status = mapper.status()
    assert (status.localisation, status.fragments_unconnected) == ('searching', 1)
    assert not mapper.graph().edges['accepted'].size
    searching = mapper.cloud(), mapper.trajectory
    keyframes, update = until_located(mapper, shown[2:])
    assert keyframes + 1 <= 3 and update.moved and not update.unlocated
    for frame in shown[3:]:
        assert mapper.process(frame).located
    last = mapper.flush()
    assert last.located
    found = errors(mapper, dict(zip((one.stamp_ns for one in shown), again(), strict=True)))
    assert (found.share, found.metres, found.degrees) <= (most.share, most.metres, most.degrees)
    assert found.metres <= most.metres and found.degrees <= most.degrees
    # The keyframe that waited for its estimate completes the old fragment, and nothing else.
    assert len(searching[1]) == poses + 1 and len(mapper.trajectory) == poses + 1 + SEEN
    assert len(before) <= len(searching[0]) < len(mapper.cloud())
    status = mapper.status()
    assert (status.localisation, status.localisation_reason) == ('located', '')
    assert (status.fragments_unconnected, status.loops_accepted) == (0, 2)
    loops = [one for one in mapper._state.atlas.constraints if one.kind == 'loop']
    assert all(np.linalg.eigvalsh(one.covariance).min() > 0.0 for one in loops)


# What is not needed to find a place, and takes time.
QUICK = {'grid': GridConfig(enabled=False), 'carving': CarvingConfig(enabled=False),
         'pose': PoseConfig(track_corners=False)}


@lru_cache(maxsize=1)
def quickly_saved() -> tuple[bytes, bytes]:
    mapper = Mapper(network(), config(**QUICK))
    for frame in frames(views()[:MAPPED]):
        mapper.process(frame)
    return encode_tree(mapper.tree())


@pytest.mark.parametrize('room', ['foreign', 'mirrored'])
def test_another_room_is_never_taken_for_the_map(room: str) -> None:
    shown = {'foreign': views()[MAPPED + SEEN:MAPPED + 2 * SEEN],
             'mirrored': views()[MAPPED + 2 * SEEN:]}[room]
    mapper = Mapper(network(OracleErrors(tries=4)), config(replace(ON, tries=1), **QUICK))
    mapper.load(decode_tree(*quickly_saved()))
    # The mirrored room is compared with all of the map, however little its images look like it.
    if room == 'mirrored':
        mapper.take_hint(Hint(MAP_FROM_OPTICAL, 1e4 * np.eye(6)))
    poses = len(mapper.trajectory)
    for frame in frames((list(shown) * 30)[:300], 10**10):
        assert not mapper.process(frame).located
    assert mapper.status().keyframes >= MAPPED + 299 and mapper.status().localisation_reason
    assert len(mapper.trajectory) == poses + 1 and mapper.status().loops_accepted == 0


def test_a_covered_lens_costs_two_seconds_at_most() -> None:
    mapper = Mapper(network(), config())
    for frame in frames(views()[:MAPPED]):
        mapper.process(frame)
    covered_ns = 10**9 + MAPPED * PERIOD_NS
    black = replace(again()[0], image=np.zeros_like(again()[0].image))
    for frame in frames([black] * LENS, covered_ns):
        assert mapper.process(frame).blind
    shown = frames(again(), covered_ns + LENS * PERIOD_NS)
    assert not mapper.process(shown[0]).located
    _, update = until_located(mapper, shown[1:])
    assert update.keyframes[-1].stamp_ns - shown[0].stamp_ns <= 2 * 10**9
    mapper.flush()
    assert mapper.status().fragments_unconnected == 0


def test_a_camera_that_was_carried_away_is_found_again() -> None:
    def after(gap_ns: int, shown: Sequence[TrueView]) -> Mapper:
        mapper = Mapper(network(), config(**QUICK))
        for frame in frames(views()[:MAPPED]):
            mapper.process(frame)
        mapper.process(frames(shown, 10**9 + MAPPED * PERIOD_NS + gap_ns)[0])
        return mapper
    mapper = after(3 * 10**9, again())
    assert mapper.status().localisation == 'searching'
    until_located(mapper, frames(again(), 10**9 + MAPPED * PERIOD_NS + 3 * 10**9)[1:])
    # Stamps that jumped back, as those of a bag that is played again.
    assert after(-50 * PERIOD_NS, again()).status().localisation == 'searching'
    # After a pause, what the camera still sees needs no search; and without one it may turn fast.
    same = views()[MAPPED - 1:MAPPED]
    assert after(3 * 10**9, [replace(same[0], image=same[0].image // 2 + 60)]).is_located
    assert after(5 * 10**8, again()).is_located


def test_a_very_small_map_is_compared_with_all_of_it() -> None:
    mapper = Mapper(network(), config(**QUICK))
    for frame in frames(views()[20:26]):
        mapper.process(frame)
    assert not mapper.process(frames(again(), 10**10)[0]).located
    until_located(mapper, frames(again(), 10**10)[1:])
    # Too few for statistics of the descriptors.
    assert mapper.status().keyframes < 10


def test_a_map_in_metres_stays_one_while_the_camera_is_searched_for() -> None:
    scale = ScaleConfig(source='number', metres_per_unit=2.0)
    mapper = Mapper(network(), config(scale=scale, grid=GridConfig(force=False)))
    for frame in frames(views()[:MAPPED]):
        mapper.process(replace(frame, first_pose=MAP_FROM_OPTICAL))
    assert mapper.status().scale.metric and not mapper.grid_reason
    shown = frames(again(), 10**10)
    for frame in shown[:2]:
        mapper.process(frame)
    assert not mapper.is_located and not mapper.status().scale.metric
    assert not mapper.grid_reason and len(mapper.grid_snapshot().parts) == 2
    until_located(mapper, shown[2:])
    assert mapper.status().scale.metric and len(mapper.grid_snapshot().parts) == 3


def test_a_camera_that_is_back_after_its_keyframes_had_no_pose_is_searched_for() -> None:
    class Failing(ViewsNetwork):
        def _pointmap(self, index: int, origin: int) -> Pointmap:
            pointmap = super()._pointmap(index, origin)
            if index < MAPPED + SEEN:
                return pointmap
            order = np.random.default_rng(index).permutation(CAMERA.height * CAMERA.width)
            return replace(pointmap, points=pointmap.points.reshape(-1, 3)[order].reshape(
                pointmap.points.shape))
    settings = config(fragments=FragmentConfig(max_lost=4), **QUICK)
    mapper = Mapper(network(kind=Failing), settings)
    states = []
    foreign = views()[MAPPED + SEEN:MAPPED + SEEN + 6]
    for frame in frames([*views()[:MAPPED], *foreign, *again()]):
        update = mapper.process(frame)
        states.append(mapper.status().localisation)
        assert update.located == (states[-1] != 'searching')
    order = [one for one, before in zip(states, [None, *states], strict=False) if one != before]
    assert order[1:5] == ['located', 'lost', 'searching', 'located'], order


def test_a_fragment_that_cannot_be_joined_is_searched_for(
        monkeypatch: pytest.MonkeyPatch) -> None:
    answering = network()
    mapper, step = Mapper(answering, config(**QUICK)), answering.step
    for frame in frames(views()[:MAPPED]):
        mapper.process(frame)

    def unsure(image: np.ndarray, image_id: int) -> list[Estimate]:
        return [one if one.image_id > 0 else replace(one, pointmap=replace(
            one.pointmap, confidence=np.zeros_like(one.pointmap.confidence)))
            for one in step(image, image_id)]
    monkeypatch.setattr(answering, 'step', unsure)
    mapper.new_fragment()
    shown = frames(views()[:SEEN], 10**9 + MAPPED * PERIOD_NS)
    assert not mapper.process(shown[0]).located
    assert mapper.status().localisation == 'searching'
    until_located(mapper, shown[1:])


def test_a_map_that_goes_on_where_it_ended_is_the_same_bit_by_bit() -> None:
    def finished(mapper: Mapper) -> dict[str, str]:
        for frame in frames(views()[:MAPPED])[30:]:
            assert mapper.process(frame).located
        mapper.flush()
        return map_hashes(mapper)

    def begun(settings: MapperConfig) -> Mapper:
        mapper = Mapper(network(), settings)
        for frame in frames(views()[:MAPPED])[:30]:
            mapper.process(frame)
        return mapper
    mapper = begun(config())
    other = Mapper(network(), config())
    other.load(decode_tree(*encode_tree(mapper.tree())))
    assert other.status().localisation == 'searching'
    off = begun(config(RelocalisationConfig()))
    assert 'relocalisation' not in off.tree()['state']
    assert finished(other) == finished(mapper) == finished(off)
    assert off.status().localisation == 'off'


@pytest.mark.parametrize(('after_load', 'goes_on', 'elsewhere'), [
    ('auto', True, False), ('continue', True, True), ('search', False, False)])
def test_the_settings_say_what_the_first_image_after_a_load_decides(
        after_load: str, goes_on: bool, elsewhere: bool) -> None:
    settings = replace(ON, after_load=after_load)
    for shown, expected in ((views()[MAPPED - 1:MAPPED], goes_on), (again(), elsewhere)):
        mapper = loaded(settings)
        dimmed = replace(shown[0], image=shown[0].image // 2 + 40)
        assert mapper.process(frames([dimmed], 10**10)[0]).located is expected
    assert loaded(RelocalisationConfig()).process(frames(again(), 10**10)[0]).located


def test_a_search_is_saved_and_goes_on_bit_by_bit() -> None:
    shown = frames(again(), 10**10)
    results = []
    for interrupted in (False, True, False):
        mapper = loaded(replace(ON, interval=3))
        for frame in shown[:4]:
            assert not mapper.process(frame).located
        assert mapper.status().localisation_reason == '1 keyframe agrees on a place'
        if interrupted:
            other = Mapper(network(), mapper._config)
            other.load(decode_tree(*encode_tree(mapper.tree())))
            assert other.status().localisation == 'searching'
            mapper = other
        for frame in shown[4:]:
            update = mapper.process(frame)
        assert update.located
        mapper.flush()
        results.append(map_hashes(mapper))
    assert results[0] == results[1] == results[2]


def test_a_search_ends_with_a_reset_and_begins_again_with_a_load() -> None:
    mapper = loaded()
    shown = frames(again(), 10**10)
    mapper.process(shown[0])
    mapper.load(decode_tree(*saved()))
    assert mapper.status().localisation == 'searching'
    assert until_located(mapper, shown)[0] <= 3
    mapper = loaded()
    mapper.process(shown[0])
    mapper.reset()
    assert (mapper.status().localisation, mapper.is_located) == ('', True)
    for frame in shown:
        assert mapper.process(frame).located
    assert mapper.status().localisation == 'located' and mapper.status().fragments == 1


def test_without_relocalisation_what_was_searched_for_is_where_it_was_assumed() -> None:
    mapper = loaded()
    shown = frames(again(), 10**10)
    for frame in shown[:2]:
        mapper.process(frame)
    poses = len(mapper.trajectory)
    mapper.configure(config(RelocalisationConfig()))
    assert mapper.process(shown[2]).located and len(mapper.trajectory) > poses
    status = mapper.status()
    assert (status.localisation, status.fragments_unconnected) == ('off', 1)


@pytest.mark.parametrize('loops', [False, True])
def test_loops_and_relocalisation_do_without_each_other(loops: bool) -> None:
    mapper = loaded(loops=LoopConfig(enabled=loops, interval=1))
    for frame in frames(again(), 10**10):
        located = mapper.process(frame).located
    closer = mapper._state.back_end.loops
    assert located and bool(closer.records) is loops
    off = loaded(RelocalisationConfig(), loops=LoopConfig(enabled=True))
    assert off.process(frames(again(), 10**10)[0]).located


@pytest.mark.parametrize('error', [DeviceMemoryError, RuntimeError])
def test_a_network_that_fails_on_a_pair_finds_nothing(error: type[Exception]) -> None:
    class Failing(ViewsNetwork):
        def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
            raise error('not now')
    mapper = loaded(answering=network(kind=Failing))
    for frame in frames(again()[:4], 10**10):
        update = mapper.process(frame)
        assert not (update.failed or update.located)
    assert 'not now' in mapper.status().localisation_reason


def hint(pose: np.ndarray, deviation: float = 0.3) -> Hint:
    origin = MAP_FROM_OPTICAL @ invert(views()[0].world_from_camera)
    return Hint(origin @ pose, deviation**2 * np.eye(6))


def test_a_hint_separates_rooms_that_look_alike() -> None:
    scene, half = TwinRooms(), 2.5
    poses = [*orbit(30, 1.2, start=0.1, step=0.2, middle=-half),
             *orbit(30, 1.2, start=0.1, step=0.2, middle=half)]
    shown = orbit(8, 1.15, start=3.0, step=0.1, middle=-half)
    rendered = []
    for pose in poses + shown:
        rgb, points = scene.render(pose, CAMERA)
        alike = np.eye(4)
        alike[0, 3] = half if pose[0, 3] < 0.0 else -half
        rendered.append(TrueView(rgb, points[..., 2], alike @ pose, CAMERA))

    class Twins(ViewsNetwork):
        """Relates images by the room that they look like, and maps the true one."""

        def _pointmap(self, index: int, origin: int) -> Pointmap:
            true = (poses + shown)[index]
            other = (poses + shown)[origin]
            alike = self.poses
            self.poses = {origin: other}
            view = self.views[index]
            self.views[index] = replace(view, world_from_camera=true)
            try:
                return super()._pointmap(index, origin)
            finally:
                self.poses, self.views[index] = alike, view

    def searched(place: np.ndarray | None) -> Mapper:
        mapper = Mapper(network(known=rendered, kind=Twins), config(**QUICK))
        for frame in frames(rendered[:60]):
            mapper.process(frame)
        mapper.load(decode_tree(*encode_tree(mapper.tree())))
        if place is not None:
            origin = MAP_FROM_OPTICAL @ invert(poses[0])
            mapper.take_hint(Hint(origin @ place, 0.1 * np.eye(6)))
        for frame in frames(rendered[60:], 10**10):
            mapper.process(frame)
        return mapper
    without = searched(None)
    assert without.status().localisation == 'searching'
    assert without.status().localisation_reason.startswith('ambiguous')
    for place in (shown[3], poses[45]):
        mapper = searched(place)
        assert mapper.is_located
        origin = MAP_FROM_OPTICAL @ invert(poses[0])
        newest = mapper.trajectory[-1].world_from_camera[:3, 3]
        assert np.linalg.norm(newest - (origin @ place)[:3, 3]) < 1.5


def test_a_hint_narrows_the_search_and_declares_nothing_by_itself() -> None:
    mapper = loaded(replace(ON, hint_radius=0.5))
    shown = frames(again(), 10**10)
    wrong = views()[0].world_from_camera
    assert 'near this pose' in mapper.take_hint(hint(wrong, 0.01))
    for frame in shown[:6]:
        assert not mapper.process(frame).located
    mapper.take_hint(hint(again()[6].world_from_camera))
    assert until_located(mapper, shown[6:])[0] <= 3
    # A located camera is searched for if a hint contradicts its place, and only then.
    place = mapper.trajectory[-1].world_from_camera
    near = Hint(place, 0.01 * np.eye(6))
    assert 'already' in mapper.take_hint(near) and mapper.is_located
    assert 'elsewhere' in mapper.take_hint(hint(wrong, 0.01))
    assert not mapper.process(replace(shown[-1], stamp_ns=shown[-1].stamp_ns + 10**7)).located


def test_a_hint_alone_is_believed_if_the_settings_say_so() -> None:
    mapper = loaded(replace(ON, trust_hint=True))
    mapper.take_hint(hint(again()[0].world_from_camera, 0.05))
    shown = frames(again()[:4], 10**10)
    keyframes, _ = until_located(mapper, shown)
    found = errors(mapper, {shown[0].stamp_ns: again()[0]})
    assert keyframes == 1 and found.metres < 0.01


@pytest.mark.parametrize(('mapper', 'reason'), [
    (lambda: Mapper(network(), config()), 'initialpose: expected a map'),
    (lambda: loaded(RelocalisationConfig()), 'initialpose: expected relocalisation.enabled')])
def test_a_hint_that_cannot_be_used_is_refused(mapper: Callable[[], Mapper], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        mapper().take_hint(hint(np.eye(4)))


@pytest.mark.parametrize(('pose', 'covariance', 'reason'), [
    (np.full((4, 4), np.nan), np.eye(6), 'a finite pose'),
    (np.eye(4), np.full((6, 6), np.nan), 'a symmetric covariance'),
    (np.eye(4), -np.eye(6), 'a symmetric covariance')])
def test_a_hint_of_wrong_numbers_is_none(pose: np.ndarray, covariance: np.ndarray,
                                         reason: str) -> None:
    with pytest.raises(ValueError, match=f'initialpose: expected {reason}'):
        Hint(pose, covariance)


def test_what_has_no_place_is_in_no_export_and_no_report(tmp_path: Path) -> None:
    mapper = Mapper(network(), config(scale=ScaleConfig(source='number', metres_per_unit=2.0)))
    for frame in frames(views()[:MAPPED]):
        mapper.process(replace(frame, first_pose=MAP_FROM_OPTICAL))
    for frame in frames(views()[MAPPED + SEEN:MAPPED + 2 * SEEN], 10**10):
        mapper.process(frame)
    assert mapper.status().localisation == 'searching'
    encode_map(mapper).write(tmp_path)
    content = read_content(tmp_path)
    assert len(content.views) == len(content.path) <= MAPPED
    assert content.facts['metric'] and content.facts['metres_per_unit'] == 1.0
    for scene in scene_of(mapper), saved_scene(tmp_path, 1.0):
        assert scene.metres == 1.0 and scene.thumbnails
        assert all(one.stamp_ns < 10**10 for one in scene.thumbnails)


def test_a_loop_with_a_fragment_without_a_place_hides_no_other_fragment() -> None:
    fragments = {0: Fragment(0, received=9), 1: Fragment(1, received=9, connected=False),
                 2: Fragment(2, received=9, unlocated=True)}
    assert unlocated(fragments, []) == {2}
    loop = Constraint('loop', 1, 2, np.eye(4), np.eye(7), accepted=True)
    assert unlocated(fragments, [loop]) == set()


def test_a_fast_camera_goes_on_after_a_load_as_without_one() -> None:
    """The next image shows nothing of the last one, but the sequence has no gap."""
    whole, resumed = (Mapper(network(), config(**QUICK)) for _ in range(2))
    for index, frame in enumerate(frames([*views()[:MAPPED], *again()])):
        if index == MAPPED:
            state = encode_tree(resumed.tree())
            resumed = Mapper(network(), config(**QUICK))
            resumed.load(decode_tree(*state))
        for mapper in (whole, resumed):
            mapper.process(frame)
    assert map_hashes(resumed) == map_hashes(whole)
