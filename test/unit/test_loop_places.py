# SPDX-License-Identifier: Apache-2.0
"""Retrieval of places by the descriptors of keyframes."""
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import to_rigid
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.loops.path_prior import PathLengths
from spann3r_ros.mapping.loops.places import Places
from spann3r_ros.mapping.mapper_config import MapperConfig

NUMBERS = 32
# Keyframes of one fragment.
FRAGMENT = 20
GAP, SIMILARITY, MOST = 10, 0.6, 5


def walk(places: int, seed: int = 0) -> np.ndarray:
    """Return descriptors [n, d] of a walk past places: three keyframes see each of them.

    They have a large part in common, and a few directions in which they vary most.
    """
    rng = np.random.default_rng(seed)
    of_places = rng.standard_normal((places, NUMBERS)).repeat(3, 0)
    unlike = of_places + 0.3 * rng.standard_normal(of_places.shape)
    unlike[:, :2] *= 10.0
    return (50.0 + unlike).astype(np.float32)


def seen_again(descriptors: np.ndarray, index: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(NUMBERS)
    return (descriptors[index] + 0.3 * noise).astype(np.float32)


def indexed(descriptors: np.ndarray) -> Places:
    places = Places()
    for number, descriptor in enumerate(descriptors):
        places.add(number, number // FRAGMENT, descriptor)
    return places


def test_a_place_seen_again_is_the_best_candidate() -> None:
    descriptors = walk(40)
    for index in range(1, 60, 7):
        places = indexed(descriptors)
        for number in (200, 201, 202, 203):
            places.add(number, 50, seen_again(descriptors, index, number))
        numbers = [one.number for one in places.candidates(GAP, SIMILARITY, MOST)]
        assert set(numbers[:3]) == {index // 3 * 3 + one for one in range(3)}
        # The same descriptors give the same order.
        assert numbers == [one.number for one in places.candidates(GAP, SIMILARITY, MOST)]


def test_new_places_seldom_have_candidates() -> None:
    descriptors, others = walk(40), walk(20, seed=1)
    places = indexed(descriptors)
    found = 0
    for number, descriptor in enumerate(others):
        places.add(200 + number, 50 + number // FRAGMENT, descriptor)
        found += bool(places.candidates(GAP, SIMILARITY, MOST))
    assert found <= 12  # of 60; each costs a verification at most


def test_neighbours_and_the_own_fragment_are_left_out() -> None:
    descriptors = walk(40)
    places = indexed(descriptors)
    again = [seen_again(descriptors, 5, seed) for seed in range(4)]
    for number, descriptor in zip((200, 201, 202, 203), again, strict=True):
        places.add(number, 50, descriptor)
    assert {one.number for one in places.candidates(GAP, SIMILARITY, MOST)} == {3, 4, 5}
    # The numbers 4 and 5 are less than 200 older.
    assert places.candidates(200, SIMILARITY, MOST)[0].number == 3
    assert places.candidates(201, SIMILARITY, MOST) == []
    own = Places()
    for number, descriptor in enumerate([*descriptors, *again]):
        own.add(number, 0, descriptor)
    assert own.candidates(GAP, SIMILARITY, MOST) == []


def test_evicted_keyframes_are_forgotten() -> None:
    descriptors = walk(40)
    places = indexed(descriptors)
    kept = [number for number in range(120) if number % 2]
    places.retain(kept)
    assert len(places) == 60
    for number in (200, 201, 202, 203):
        places.add(number, 50, seen_again(descriptors, 4, number))
    assert {one.number for one in places.candidates(GAP, SIMILARITY, MOST)} == {3, 5}


def test_few_keyframes_have_no_statistics() -> None:
    places = Places()
    for number in range(5):
        places.add(number, number, np.ones(NUMBERS, np.float32))
        assert places.candidates(0, SIMILARITY, MOST) == []


def test_equal_descriptors_are_no_fault() -> None:
    places = Places()
    for number in range(40):
        places.add(number, number, np.ones(NUMBERS, np.float32))
        places.candidates(0, SIMILARITY, MOST)
    # Another network's descriptors have another length.
    places.add(41, 0, np.ones(NUMBERS + 1, np.float32))
    assert len(places) == 1


def test_lengths_of_a_path_whose_stamps_jumped_back() -> None:
    stamps = np.array([*range(100, 110), *range(50, 60)]) * 10**9
    atlas = straight_walk(stamps)
    lengths = PathLengths(atlas, [])
    poses = every_pose(atlas)
    assert lengths.between(poses[1], poses[18]) == pytest.approx(17.0)
    assert lengths.between(poses[5], poses[11]) == pytest.approx(6.0)
    # The same bag again: stamps are those of before.
    atlas = straight_walk(np.array([*range(100, 110), *range(100, 110)]) * 10**9)
    poses = every_pose(atlas)
    assert PathLengths(atlas, []).between(poses[3], poses[13]) == pytest.approx(10.0)


def test_lengths_of_a_path_whose_oldest_poses_are_gone() -> None:
    stamps = np.arange(40) * 10**9
    whole, bounded = straight_walk(stamps), straight_walk(stamps, MapperConfig(path_max_size=15))
    # A fragment of which nothing is left is removed; its length is not.
    assert [len(one.path) for one in bounded.fragments.values()] == [0, 0, 5, 10]
    bounded.fragments[1].keyframes.clear()
    bounded.begin()
    assert list(bounded.fragments) == [0, 2, 3, 4]
    poses = every_pose(whole)
    true, lengths = PathLengths(whole, []), PathLengths(bounded, [])
    for first, second in ((26, 38), (22, 38), (5, 38), (5, 26)):
        length = lengths.between(poses[first], poses[second])
        # It is not known where in its fragment a pose was that is gone.
        assert -1e-9 <= length - true.between(poses[first], poses[second]) < 10.0
    assert lengths.between(poses[26], poses[38]) == pytest.approx(12.0)


def straight_walk(stamps: np.ndarray, config: MapperConfig | None = None) -> Atlas:
    """Return an atlas of fragments of ten poses, a metre apart."""
    atlas = Atlas(config or MapperConfig(), ())
    for index, stamp in enumerate(stamps.tolist()):
        if index and index % 10 == 0:
            atlas.begin()
        pose = FragmentPose(stamp, 'camera', atlas.current.id,
                            to_rigid(np.zeros(3), np.array([float(index), 0.0, 0.0])))
        blank = np.ones((4, 4), np.float32)
        atlas.add(Keyframe(stamp, 'camera', atlas.current.id, np.zeros((4, 4, 3), np.uint8),
                           Intrinsics(4.0, 4.0, 2.0, 2.0, 4, 4), blank, blank, pose), None)
    return atlas


def every_pose(atlas: Atlas) -> list[FragmentPose]:
    return [FragmentPose(stamp, 'camera', one.id, np.eye(4))
            for one in atlas.fragments.values() for stamp in one.path.stamps.tolist()]
