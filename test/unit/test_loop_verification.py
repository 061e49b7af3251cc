# SPDX-License-Identifier: Apache-2.0
"""Verification of loops by pairs of images: right ones are measured, wrong ones are refused."""
from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest
from oracle import EXACT, OracleErrors, PairNetwork, TrueView, World, overlap, smooth_field
from synthetic import SyntheticScene, orbit_trajectory, square_camera

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.similarity import carry_covariance, error_vectors, similarities_of
from spann3r_ros.core.transforms import invert, invert_similarity, move_pose
from spann3r_ros.core.types import FragmentPose, FrameError
from spann3r_ros.mapping.fragments.keyframe_store import compacted
from spann3r_ros.mapping.loops.loop_closer import constraint_between
from spann3r_ros.mapping.loops.pair_alignment import MismatchError, View
from spann3r_ros.mapping.loops.verification import compare, match, view_of
from spann3r_ros.mapping.mapper_config import MapperConfig

CAMERA = square_camera(96)
CONFIG = MapperConfig()
# Unit of the second keyframe's fragment in units of the first one's.
UNIT = 1.3
# Largest smooth error of a keyframe's own depth, as a share.
DEPTH_ERROR = 0.05


@lru_cache(maxsize=1)
def rooms() -> tuple[TrueView, ...]:
    """Return 18 views of each of four rooms; the second one is the first one, mirrored."""
    worlds = (World(SyntheticScene()), World(SyntheticScene(), mirrored=True),
              World(SyntheticScene(4.0, 3.6, 2.4), (3.0, 1.0, 0.5)),
              World(SyntheticScene(6.0, 5.0, 2.8), (7.0, 2.0, 1.5)))
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    return tuple(world.view(mirror @ pose @ mirror if world.mirrored else pose, CAMERA, number)
                 for number, world in enumerate(worlds) for pose in orbit_trajectory(18))


def network(errors: OracleErrors) -> PairNetwork:
    found = PairNetwork(errors)
    for view in rooms():
        found.learn(view)
    return found


def seen(view: TrueView, number: int, unit: float = 1.0, error: float = DEPTH_ERROR) -> View:
    """Return a view as a keyframe whose depth has smooth errors."""
    field = smooth_field(np.random.default_rng(number), view.depth.shape)
    depth = view.depth * np.exp(error * field) / unit
    return View(view.image, depth.astype(np.float32), view.intrinsics)


def test_of_wrong_pairs_none_is_accepted() -> None:
    answering, views = network(OracleErrors()), rooms()
    drawn = np.random.default_rng(0).integers(len(views), size=(320, 2))
    wrong = [(one, two) for one, two in drawn
             if one != two and overlap(views[one], views[two]) < 0.05]
    # Each view of the first room beside the one of the mirrored room that resembles it most.
    twins = [(one, one + 18) for one in range(18)]
    reasons = []
    for one, two in [*twins, *wrong[:200]]:
        with pytest.raises(MismatchError) as caught:
            match(seen(views[one], one), seen(views[two], two), answering, CONFIG)
        reasons.append(str(caught.value).split(':')[0])
    assert len(reasons) == 218
    # The answers are confident and alike in both orders: neither refuses them.
    assert not {'no pose', 'orders disagree', 'other depths'} & set(reasons)


def test_right_pairs_are_measured_with_their_covariance() -> None:
    answering, views = network(OracleErrors()), rooms()
    right = [(one, one + ahead) for one in range(len(views) - 2) for ahead in (1, 2)
             if overlap(views[one], views[one + ahead]) > 0.45]
    accepted, squares = 0, []
    for one, two in right:
        try:
            found = match(seen(views[one], one), seen(views[two], two, UNIT), answering, CONFIG)
        except MismatchError:
            continue
        accepted += 1
        true = invert(views[one].world_from_camera) @ views[two].world_from_camera
        error = error_vectors(invert_similarity(found.alignment.first_from_second)
                              @ true @ np.diag([UNIT, UNIT, UNIT, 1.0]))
        squares.append(error @ np.linalg.solve(found.alignment.covariance, error))
        assert np.linalg.norm(error[:3]) < 0.15 and np.linalg.norm(error[3:6]) < 0.05
        assert abs(error[6]) < 0.06
    assert len(right) > 50 and accepted >= 0.9 * len(right)
    # Seven degrees of freedom.
    assert 0.2 < np.mean(squares) / 7.0 < 1.5


def keyframe(view: TrueView, fragment: int, fragment_from_world: np.ndarray) -> Keyframe:
    """Return a keyframe with its true depth, in a fragment placed by a similarity [4, 4]."""
    unit = float(np.cbrt(np.linalg.det(fragment_from_world[:3, :3])))
    pose = FragmentPose(1, 'camera', fragment, move_pose(fragment_from_world,
                                                         view.world_from_camera))
    return Keyframe(1, 'camera', fragment, view.image, CAMERA,
                    (view.depth * unit).astype(np.float32),
                    np.full(view.depth.shape, 0.9, np.float32), pose)


def placed_pair() -> tuple[Keyframe, Keyframe, np.ndarray]:
    """Return two keyframes of one place in two fragments, and the true similarity of these."""
    rng = np.random.default_rng(3)
    places = similarities_of(rng.standard_normal((2, 7)) * [3, 3, 3, 1, 1, 1, 0.4])
    views = rooms()
    pair = [keyframe(view, fragment, place) for fragment, (view, place) in enumerate(
        zip((views[2], views[3]), places, strict=True))]
    return *pair, places[0] @ invert_similarity(places[1])


def test_the_constraint_is_between_the_two_keyframes() -> None:
    first, second, first_from_second = placed_pair()
    found = match(view_of(first, 0.1), view_of(second, 0.1), network(EXACT), CONFIG)
    constraint = constraint_between(found.alignment, first.pose, second.pose)
    assert (constraint.kind, constraint.first, constraint.second) == ('loop', 0, 1)
    error = error_vectors(invert_similarity(constraint.first_from_second) @ first_from_second)
    assert np.abs(error).max() < 1e-6
    # The covariance about the fragment's origin is that of the camera, carried there.
    back = carry_covariance(invert(second.pose.fragment_from_camera), constraint.covariance)
    np.testing.assert_allclose(back, found.alignment.covariance, rtol=1e-6, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(constraint.covariance)
    assert eigenvalues[0] > 0.0


def test_large_keyframes_are_compared_in_all_their_pixels() -> None:
    camera = square_camera(224)
    rgb, points = SyntheticScene().render(orbit_trajectory(18)[0], camera)
    view = View(rgb, points[..., 2].astype(np.float32), camera)
    found = compare(view, view, np.eye(4), CONFIG.loops)
    assert found.support > 0.98 and found.correlation > 0.99


def test_a_compact_keyframe_is_verified_too() -> None:
    first, second, first_from_second = placed_pair()
    answering, small = network(EXACT), compacted(first, 0.1)
    answering.learn(replace(rooms()[2], image=small.rgb()))
    found = match(view_of(small, 0.1), view_of(second, 0.1), answering, CONFIG)
    error = error_vectors(invert_similarity(constraint_between(
        found.alignment, small.pose, second.pose).first_from_second) @ first_from_second)
    assert np.abs(error).max() < 1e-3


class Faulty(PairNetwork):
    """Answers the second order otherwise, or not at all."""

    fault = 'other'
    asked = 0

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return an answer with a fault."""
        self.asked += 1
        one, other = super().pair(first, second)
        if self.fault == 'frame':
            raise FrameError('no points')
        if self.fault == 'scale' or (self.fault == 'other' and self.asked == 2):
            # The second image is twice as far: its camera is elsewhere.
            points = other.pointmap.points.copy()
            points[..., 0] += 0.5
            other = replace(other, pointmap=replace(other.pointmap, points=points))
        return one, other


@pytest.mark.parametrize(('fault', 'reason'), [
    ('other', 'orders disagree'), ('frame', 'no pose'), ('scale', 'orders disagree')])
def test_answers_that_contradict_are_refused(fault: str, reason: str) -> None:
    first, second, _ = placed_pair()
    answering = Faulty(EXACT)
    answering.fault = fault
    for view in rooms():
        answering.learn(view)
    with pytest.raises(MismatchError, match=reason):
        match(view_of(first, 0.1), view_of(second, 0.1), answering, CONFIG)


def test_another_geometry_and_another_appearance_are_refused() -> None:
    first, second, _ = placed_pair()
    answering, seen_first = network(EXACT), view_of(first, 0.1)
    bent = seen_first.depth * np.linspace(0.6, 1.6, 96, dtype=np.float32)
    with pytest.raises(MismatchError, match='other depths'):
        match(replace(seen_first, depth=bent), view_of(second, 0.1), answering, CONFIG)
    none = np.full_like(bent, np.nan)
    with pytest.raises(MismatchError, match='too few points'):
        match(replace(seen_first, depth=none), view_of(second, 0.1), answering, CONFIG)
    # A room of the same shape with another wallpaper.
    other = cv2.flip(seen_first.image, 0)
    answering.learn(replace(rooms()[2], image=other))
    with pytest.raises(MismatchError, match='other appearance'):
        match(replace(seen_first, image=other), view_of(second, 0.1), answering, CONFIG)
