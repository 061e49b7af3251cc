# SPDX-License-Identifier: Apache-2.0
"""The pose graph finds the places that fit best, and refuses loops that contradict the rest."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pose_graphs import JOIN, LOOP, Walk, false_loop, measured, true_places, walk
from scipy.optimize import least_squares

from spann3r_ros.core.similarity import (
    error_vectors,
    residuals,
    similarities_of,
    similarity_scales,
)
from spann3r_ros.core.transforms import is_similarity
from spann3r_ros.mapping.fragments.constraint import Constraint, without_fragment
from spann3r_ros.mapping.loops.loop_selection import solve
from spann3r_ros.mapping.loops.pose_graph import PoseGraph, ScalePrior, minimise

PROBABILITY = 0.9999
AGREEMENT = 1e-6


def apart(places: dict[int, np.ndarray], others: dict[int, np.ndarray]) -> float:
    """Return the largest difference of any entry of any place."""
    assert places.keys() == others.keys()
    return max(np.abs(places[one] - others[one]).max() for one in places)


def cost(graph: PoseGraph, places: dict[int, np.ndarray]) -> float:
    """Return the cost of a graph by its definition."""
    total = 0.0
    for one in graph.constraints:
        error = error_vectors(np.linalg.inv(one.first_from_second) @ np.linalg.inv(
            places[one.first]) @ places[one.second])
        total += error @ np.linalg.solve(one.covariance, error)
    for prior in graph.priors:
        scale = np.cbrt(np.linalg.det(places[prior.fragment][:3, :3]))
        total += (np.log(scale) - prior.log_scale)**2 / prior.variance
    return total


def dense_minimum(graph: PoseGraph) -> dict[int, np.ndarray]:
    """Return the minimum by another solver, with finite differences; the first one is fixed."""
    ids = sorted(graph.places)
    roots = [np.linalg.inv(np.linalg.cholesky(one.covariance)) for one in graph.constraints]

    def places_of(steps: np.ndarray) -> dict[int, np.ndarray]:
        moved = {one: graph.places[one] @ similarities_of(step) for one, step in zip(
            ids[1:], steps.reshape(-1, 7), strict=True)}
        return {ids[0]: graph.places[ids[0]], **moved}

    def weighted(steps: np.ndarray) -> np.ndarray:
        places = places_of(steps)
        return np.concatenate([root @ error_vectors(
            np.linalg.inv(one.first_from_second) @ np.linalg.inv(places[one.first])
            @ places[one.second]) for root, one in zip(roots, graph.constraints, strict=True)])
    found = least_squares(weighted, np.zeros(7 * (len(ids) - 1)), '3-point', xtol=1e-14,
                          ftol=1e-14, gtol=1e-12)
    return places_of(found.x)


def test_the_minimum_is_that_of_another_solver() -> None:
    graph = walk(9, 4, 2, seed=4).graph
    solution = minimise(graph)
    assert solution.cost == pytest.approx(cost(graph, solution.places), rel=1e-9)
    assert solution.cost < 0.1 * cost(graph, graph.places)
    assert apart(solution.places, dense_minimum(graph)) < AGREEMENT
    assert all(is_similarity(one) for one in solution.places.values())
    assert np.array_equal(solution.places[0], graph.places[0])


def test_the_minimum_is_that_of_gtsam() -> None:
    """The same residuals and weights in another optimiser, which has tangents of its own."""
    gtsam = pytest.importorskip('gtsam', reason='gtsam is not installed; it has no wheel for '
                                                'Python 3.10')
    graph = walk(60, 20, 5, seed=2).graph
    # gtsam orders a tangent by rotation, translation and scale.
    order = [3, 4, 5, 0, 1, 2, 6]
    # Its matrix of a similarity has the scale in its last entry.
    def to_gtsam(place: np.ndarray) -> object:
        scale = similarity_scales(place)
        return gtsam.Similarity3(gtsam.Rot3(place[:3, :3] / scale), place[:3, 3] / scale,
                                 float(scale))

    def from_gtsam(value: object) -> np.ndarray:
        place, scale = np.eye(4), value.scale()
        place[:3, :3] = scale * value.rotation().matrix()
        place[:3, 3] = scale * value.translation()
        return place

    def factor(one: Constraint) -> object:
        def error(this: object, values: object, jacobians: list | None) -> np.ndarray:
            first, second = (from_gtsam(values.atSimilarity3(key)) for key in this.keys())
            vector, to_first, to_second = residuals(
                one.first_from_second[None], first[None], second[None])
            if jacobians is not None:
                jacobians[0] = np.asfortranarray(to_first[0][:, order])
                jacobians[1] = np.asfortranarray(to_second[0][:, order])
            return vector[0]
        noise = gtsam.noiseModel.Gaussian.Covariance(one.covariance)
        return gtsam.CustomFactor(noise, [one.first, one.second], error)
    factors, start = gtsam.NonlinearFactorGraph(), gtsam.Values()
    for one in graph.constraints:
        factors.add(factor(one))
    for one, place in graph.places.items():
        start.insert(one, to_gtsam(place))
    factors.add(gtsam.PriorFactorSimilarity3(
        0, to_gtsam(graph.places[0]), gtsam.noiseModel.Isotropic.Sigma(7, 1e-9)))
    parameters = gtsam.LevenbergMarquardtParams()
    parameters.setRelativeErrorTol(1e-15)
    parameters.setAbsoluteErrorTol(1e-15)
    found = gtsam.LevenbergMarquardtOptimizer(factors, start, parameters).optimize()
    solution = minimise(graph)
    assert 2.0 * factors.error(found) == pytest.approx(solution.cost, rel=1e-9)
    assert apart(solution.places, {
        one: from_gtsam(found.atSimilarity3(one)) for one in graph.places}) <= AGREEMENT


def test_the_cost_of_true_measurements_is_what_their_covariances_say() -> None:
    costs = []
    for seed in range(12):
        graph = walk(40, 10, 3, seed).graph
        costs.append(minimise(graph).cost / (7 * (len(graph.constraints) - 39)))
    # The mean of 12 times 70 squared standard normal numbers.
    assert abs(np.mean(costs) - 1.0) < 4.0 * np.sqrt(2.0 / (12 * 70))


def with_loops(one: Walk, *loops: Constraint) -> PoseGraph:
    """Return the graph of a walk with further loops between its own."""
    constraints = list(one.graph.constraints)
    for place, loop in enumerate(loops):
        constraints.insert(10 + 7 * place, loop)
    return replace(one.graph, constraints=constraints)


@pytest.mark.parametrize('seed', range(4))
def test_false_loops_among_true_ones_are_rejected(seed: int) -> None:
    true = walk(seed=seed)
    expected = solve(true.graph, PROBABILITY)
    assert expected.accepted.all()
    assert true.errors(expected.places).max() < 0.4 * true.errors(true.graph.places).max()
    graph = with_loops(true, false_loop(3, 33, seed), false_loop(7, 57, seed))
    found = solve(graph, PROBABILITY)
    assert np.flatnonzero(~found.accepted).tolist() == [10, 17]
    # The places do not depend on what is rejected, beyond the accuracy of the solution.
    assert apart(found.places, expected.places) < AGREEMENT
    again = solve(graph, PROBABILITY)
    assert all(np.array_equal(again.places[one], place) for one, place in found.places.items())
    assert np.array_equal(again.accepted, found.accepted)


def test_a_false_loop_without_a_true_one_is_rejected() -> None:
    true = walk(30, 20, every=100)
    graph = with_loops(true, false_loop(2, 12))
    graph = replace(graph, constraints=[
        one for one in graph.constraints if one.kind == 'overlap' or one.first == 2])
    found = solve(graph, PROBABILITY)
    assert not found.accepted[10] and found.accepted.sum() == 29
    assert apart(found.places, dict(true.graph.places)) < AGREEMENT


def test_a_false_loop_that_the_drift_allows_is_outvoted() -> None:
    """Compared with the joins alone it passes; it contradicts the loops beside it."""
    true = walk(30, 20, every=2, seed=5)
    one = measured(np.random.default_rng(7), 'loop', true.truth, 3, 23, LOOP)
    shifted = one.first_from_second @ similarities_of([0.6, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    false = replace(one, first_from_second=shifted)
    joins = [one for one in true.graph.constraints if one.kind == 'overlap']
    assert solve(replace(true.graph, constraints=[*joins, false]), PROBABILITY).accepted.all()
    found = solve(with_loops(true, false), PROBABILITY)
    assert np.flatnonzero(~found.accepted).tolist() == [10]
    assert apart(found.places, solve(true.graph, PROBABILITY).places) < AGREEMENT


def test_many_false_loops_that_agree_are_rejected() -> None:
    """Two rooms that look the same, one after the other, are not made one."""
    truth = {index: similarities_of([0.7 * index, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
             for index in range(20)}
    rng = np.random.default_rng(0)
    joins = [measured(rng, 'overlap', truth, index, index + 1, JOIN) for index in range(19)]
    twins = [Constraint('loop', index, index + 10, similarities_of(
        rng.multivariate_normal(np.zeros(7), LOOP)), LOOP) for index in range(10)]
    places = {0: truth[0]}
    for one in joins:
        places[one.second] = places[one.first] @ one.first_from_second
    found = solve(PoseGraph(places, [*joins, *twins], 0), PROBABILITY)
    assert found.accepted.tolist() == 19 * [True] + 10 * [False]


def test_a_loop_that_was_judged_too_early_is_accepted_later() -> None:
    """With the drift corrected by others, a loop passes that does not pass alone."""
    true = walk(100, 20, 5, seed=1, bias=0.008)
    joins = [one for one in true.graph.constraints if one.kind == 'overlap']
    loops = [one for one in true.graph.constraints if one.kind == 'loop']
    far = measured(np.random.default_rng(3), 'loop', true.truth, 2, 82, LOOP)
    alone = solve(replace(true.graph, constraints=[*joins, far]), PROBABILITY)
    assert not alone.accepted[-1]
    together = solve(replace(true.graph, constraints=[*joins, *loops, far]), PROBABILITY)
    assert together.accepted.all()


def test_loops_one_after_the_other_give_what_all_together_give() -> None:
    true = walk(seed=2)
    graph = with_loops(true, false_loop(3, 33), false_loop(7, 57))
    expected = solve(graph, PROBABILITY)
    loops = [one for one in graph.constraints if one.kind == 'loop']
    known = [one for one in graph.constraints if one.kind != 'loop']
    places = dict(graph.places)
    for loop in loops:
        known.append(loop)
        found = solve(PoseGraph(places, known, 0), PROBABILITY)
        known = [replace(one, accepted=bool(on)) if one.kind == 'loop' else one
                 for one, on in zip(known, found.accepted, strict=True)]
        places = found.places
    assert [one.accepted for one in known[59:]] == [
        bool(on) for one, on in zip(graph.constraints, expected.accepted, strict=True)
        if one.kind == 'loop']
    assert apart(places, expected.places) < AGREEMENT


def test_a_false_loop_that_was_accepted_is_found_when_true_ones_contradict_it() -> None:
    true = walk(seed=3)
    wrong = replace(false_loop(3, 33), accepted=True)
    graph = with_loops(true, wrong)
    start = minimise(graph.without(np.array([
        one.kind == 'loop' and one is not wrong for one in graph.constraints])), 0.01)
    found = solve(replace(graph, places=start.places), PROBABILITY)
    assert np.flatnonzero(~found.accepted).tolist() == [10]
    assert apart(found.places, solve(true.graph, PROBABILITY).places) < AGREEMENT


def test_fragments_without_a_constraint_follow_the_one_before_them() -> None:
    true = walk(40, 10, 3)
    constraints = [one for one in true.graph.constraints
                   if {one.first, one.second} not in ({24, 25}, {29, 30})
                   and (one.kind == 'overlap' or one.second < 25)]
    graph = replace(true.graph, constraints=constraints)
    found = solve(graph, PROBABILITY)
    assert found.accepted.all()
    before, after = graph.places, found.places
    assert np.abs(after[24] - before[24]).max() > 0.05
    for one in range(25, 40):
        np.testing.assert_allclose(np.linalg.inv(after[24]) @ after[one],
                                   np.linalg.inv(before[24]) @ before[one], atol=AGREEMENT)


def test_one_loop_connects_fragments_that_nothing_else_does() -> None:
    true = walk(30, 10, 100)
    joins = [one for one in true.graph.constraints
             if one.kind == 'overlap' and {one.first, one.second} != {14, 15}]
    moved = similarities_of([9.0, -5.0, 2.0, 0.4, 0.2, 2.0, 0.7])
    far = {one: place if one < 15 else moved @ place
           for one, place in true.graph.places.items()}
    loop = measured(np.random.default_rng(0), 'loop', true.truth, 7, 17, LOOP)
    graph = PoseGraph(far, [*joins, loop], 0)
    found = solve(graph, PROBABILITY)
    assert found.accepted.all()
    assert true.errors(found.places).max() < 3.0 * true.errors(true.graph.places).max()
    # A second one has to agree with the first.
    second = measured(np.random.default_rng(1), 'loop', true.truth, 8, 18, LOOP)
    found = solve(replace(graph, constraints=[*joins, loop, second, false_loop(3, 26)]),
                  PROBABILITY)
    assert found.accepted.tolist() == (len(joins) + 2) * [True] + [False]


def test_priors_of_scales_set_the_scale_and_keep_the_origin() -> None:
    true = walk(30, 10, 3)
    metres = {one: 2.5 * similarity_scales(place) for one, place in true.truth.items()}
    priors = [ScalePrior(one, float(np.log(metres[one])), 1e-4) for one in (0, 12, 20)]
    graph = replace(true.graph, priors=priors)
    found = solve(graph, PROBABILITY)
    scales = {one: similarity_scales(place) for one, place in found.places.items()}
    ratios = np.array([scales[one] / metres[one] for one in scales])
    assert np.abs(np.log(ratios)).max() < 0.04
    np.testing.assert_allclose(found.places[0][:3, 3], graph.places[0][:3, 3])
    np.testing.assert_allclose(found.places[0][:3, :3] / scales[0], graph.places[0][:3, :3],
                               atol=1e-9)
    # The path is longer by the same factor.
    places = np.array([found.places[one][:3, 3] for one in range(30)])
    truth = np.array([true.truth[one][:3, 3] for one in range(30)])
    lengths = [np.linalg.norm(np.diff(one, axis=0), axis=1).sum() for one in (places, truth)]
    assert lengths[0] / lengths[1] == pytest.approx(2.5, rel=0.05)
    # A sure prior is kept, whatever the joins say.
    tight = minimise(replace(true.graph, priors=[ScalePrior(12, 0.7, 1e-12)]))
    assert np.log(similarity_scales(tight.places[12])) == pytest.approx(0.7, abs=1e-6)


def test_a_graph_without_a_fragment_has_the_same_minimum() -> None:
    """In a chain with a loop, a fragment that is left out changes nothing of the others."""
    whole = walk(12, 11).graph
    expected = minimise(whole).places
    constraints = list(whole.constraints)
    for removed in (4, 5, 9):
        constraints = without_fragment(constraints, removed)
    places = {one: place for one, place in whole.places.items() if one not in (4, 5, 9)}
    assert len(constraints) == len(places) == 9
    found = minimise(PoseGraph(places, constraints, 0)).places
    moved = apart({one: expected[one] for one in places}, places)
    assert apart(found, {one: expected[one] for one in places}) < 0.01 * moved
    # A loop keeps its kind, and what has no covariance has none afterwards.
    no_loop_end = without_fragment(constraints, 11)
    assert [one.kind for one in no_loop_end if {0, 10} == {one.first, one.second}] == ['loop']
    unknown = [replace(one, covariance=None) for one in constraints]
    assert all(one.covariance is None for one in without_fragment(unknown, 6))
    assert without_fragment(whole.constraints[-1:], 0) == []


def test_what_is_no_graph_is_refused() -> None:
    places = true_places(3, 10)
    with pytest.raises(ValueError, match=r'expected fragments of \[0, 1, 2\], got \[7\]'):
        PoseGraph(places, [false_loop(0, 7)], 0)
    with pytest.raises(ValueError, match='variance above zero, got 0.1 and 0.0'):
        ScalePrior(0, 0.1, 0.0)
