# SPDX-License-Identifier: Apache-2.0
"""The paper's evaluation, on written folders and predictions with known errors."""
from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded_rooms import WRITERS, pose, write_dtu, write_nrgbd, write_seven_scenes
from scipy.spatial.transform import Rotation
from tiny import tiny_model

from spann3r_ros.cli.commands.scores import benchmark
from spann3r_ros.cli.main import main
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.datasets.folders import LAYOUTS
from spann3r_ros.datasets.rgbd import DatasetError, PosedView, RgbdSequence
from spann3r_ros.evaluation.measures.clouds import CloudScores
from spann3r_ros.evaluation.measures.metrics import NearestDistances, NormalConsistency
from spann3r_ros.evaluation.measures.trajectories import PathErrors
from spann3r_ros.evaluation.paper import coverage, protocol, published
from spann3r_ros.evaluation.paper.protocol import PathScores, Prediction, SceneScores
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.networks.spann3r.spann3r_network import Spann3RNetwork

SIZE = (48, 64)


def load(layout: str, root: Path, count: int = 4) -> tuple[RgbdSequence, list[PosedView]]:
    WRITERS[layout](root, count)
    (sequence,) = LAYOUTS[layout](root)
    return sequence, protocol.load_views(sequence, SIZE)


def perfect(views: list[PosedView], order: tuple[int, ...], scale: float = 0.3) -> Prediction:
    """Return the truth, in the frame of the first view of an order and in another unit."""
    first_from_world = invert(views[order[0]].world_from_camera)
    points = np.stack([transform_points(first_from_world, views[index].world_points)
                       for index in order])
    return Prediction(scale * points, np.full(points.shape[:3], 0.9), order, seconds=2.0)


@pytest.mark.parametrize('layout', ['7scenes', 'dtu'])
def test_true_points_of_another_scale_and_depth_score_perfectly(
        layout: str, tmp_path: Path) -> None:
    sequence, views = load(layout, tmp_path)
    prediction = perfect(views, (0, 1, 2, 3))
    shifted = replace(prediction, points=prediction.points + np.float32([0.0, 0.0, 0.2]))
    scores = protocol.score_scene(sequence, views, shifted)
    assert (scores.scene, scores.frames) == (sequence.name, 4)
    assert scores.frames_per_second == 2.0
    assert scores.clouds.accuracy.mean < 1e-4 * sequence.unit_per_metre
    assert scores.clouds.completion.mean < 1e-4 * sequence.unit_per_metre
    assert scores.clouds.normals.mean > 0.999


def test_truth_follows_the_order_of_the_prediction(tmp_path: Path) -> None:
    sequence, views = load('7scenes', tmp_path)
    right = protocol.score_scene(sequence, views, perfect(views, (2, 0, 3, 1)))
    assert right.clouds.accuracy.mean < 1e-4
    wrong = replace(perfect(views, (2, 0, 3, 1)), order=(0, 1, 2, 3))
    assert protocol.score_scene(sequence, views, wrong).clouds.accuracy.mean > 0.02


def test_registration_removes_a_small_rotation_and_not_noise(tmp_path: Path) -> None:
    sequence, views = load('7scenes', tmp_path)
    prediction = perfect(views, (0, 1, 2, 3), scale=1.0)
    turn = Rotation.from_euler('y', 0.7, degrees=True).as_matrix().astype(np.float32)
    turned = replace(prediction, points=prediction.points @ turn.T)
    assert protocol.score_scene(sequence, views, turned).clouds.accuracy.mean < 0.006
    noise = np.random.default_rng(0).normal(0.0, 0.05, prediction.points.shape)
    rough = replace(prediction, points=prediction.points + noise.astype(np.float32))
    # Nearest distances see little more than what is across the walls: E|x| = 0.8 sigma at most.
    assert 0.015 < protocol.score_scene(sequence, views, rough).clouds.accuracy.mean < 0.05


def test_views_without_any_depth_are_refused(tmp_path: Path) -> None:
    sequence, views = load('7scenes', tmp_path)
    blind = [replace(view, valid=np.zeros(SIZE, bool)) for view in views]
    with pytest.raises(DatasetError, match='chess03: expected depth'):
        protocol.score_scene(sequence, blind, perfect(views, (0, 1, 2, 3)))


def test_poses_of_true_points_are_true(tmp_path: Path) -> None:
    sequence, views = load('tum', tmp_path, 5)
    scores = protocol.score_path(sequence, views, perfect(views, (0, 1, 2, 3)))
    assert (scores.frames, scores.solved) == (4, 4)
    assert scores.errors.trajectory_error < 0.005 and scores.errors.translation < 0.008
    assert scores.errors.rotation_deg < 0.2
    true = np.stack([pose(index)[:3, 3] for index in (0, 2, 3, 4)])
    assert scores.errors.path_length == pytest.approx(
        np.linalg.norm(np.diff(true, axis=0), axis=1).sum(), abs=1e-5)


def test_poses_follow_the_order_of_the_prediction(tmp_path: Path) -> None:
    sequence, views = load('tum', tmp_path, 5)
    scores = protocol.score_path(sequence, views, perfect(views, (2, 0, 3, 1)))
    assert scores.errors.trajectory_error < 0.005 and scores.errors.rotation_deg < 0.2
    straight = protocol.score_path(sequence, views, perfect(views, (0, 1, 2, 3)))
    assert scores.errors.path_length == pytest.approx(straight.errors.path_length)


def test_views_are_selected_as_in_the_paper(tmp_path: Path) -> None:
    write_seven_scenes(tmp_path / 'a', 41)
    (sequence,) = LAYOUTS['7scenes'](tmp_path / 'a')
    chosen = protocol.SELECTIONS['7scenes'].of(sequence)
    assert [view.number for view in chosen.views] == [0, 20, 40]
    write_dtu(tmp_path / 'b', 12)
    (sequence,) = LAYOUTS['dtu'](tmp_path / 'b')
    chosen = protocol.SELECTIONS['dtu'].of(sequence)
    assert [view.number for view in chosen.views] == [10, 5, 0]
    few = protocol.few_views(sequence)
    assert len(few) == 12
    assert [view.number for view in few[2].views] == [2, 0, 1, 3, 4, 5]
    with pytest.raises(DatasetError, match='scan1: expected two views or more'):
        protocol.Selection(20).of(sequence)
    (tmp_path / 'b/pair.txt').write_text('1\n0\n0\n')
    (sequence,) = LAYOUTS['dtu'](tmp_path / 'b')
    with pytest.raises(DatasetError, match='expected neighbours of view 0'):
        protocol.few_views(sequence)
    write_nrgbd(tmp_path / 'c', 5, lost=1)
    (sequence,) = LAYOUTS['nrgbd'](tmp_path / 'c')
    # The view without a pose keeps its place.
    assert [view.number for view in protocol.Selection(2).of(sequence).views] == [0, 2, 4]


@pytest.mark.parametrize(('layout', 'expected'), [
    ('7scenes', [3, 5, 7]), ('nrgbd', [3, 5, 7]), ('dtu', [7, 5, 3])])
def test_views_are_counted_from_the_first_whatever_its_number(
        layout: str, expected: list[int], tmp_path: Path) -> None:
    WRITERS[layout](tmp_path, 5, first=3)
    (sequence,) = LAYOUTS[layout](tmp_path)
    chosen = replace(protocol.SELECTIONS[layout], every=2).of(sequence)
    assert [view.number for view in chosen.views] == expected


def test_tuples_name_scenes_as_their_authors_do(tmp_path: Path) -> None:
    write_seven_scenes(tmp_path, 3)
    sequences = {item.name: item for item in LAYOUTS['7scenes'](tmp_path)}
    file = tmp_path / 'tuples.txt'
    file.write_text('chess/seq-03 000002 000000\n\nchess03 1 2\n')
    chosen = protocol.read_tuples(file, sequences)
    assert [[view.number for view in item.views] for item in chosen] == [[2, 0], [1, 2]]
    for text, message in (('fire/seq-03 1 2', "expected one of .*'chess03'.*, got 'fire/seq-03'"),
                          ('chess03 1', 'expected two views'), ('chess03 1 x', 'expected numbers'),
                          ('chess03 1 9', 'expected an image 9')):
        file.write_text(text)
        with pytest.raises(DatasetError, match=message):
            protocol.read_tuples(file, sequences)


def test_offline_and_online_predict_every_view(tmp_path: Path) -> None:
    _, views = load('nrgbd', tmp_path)
    network = Spann3RNetwork(tiny_model(image_height=48, image_width=64))
    online = protocol.predict(network, views)
    assert online.order == (0, 1, 2, 3) and online.points.shape == (4, *SIZE, 3)
    assert online.frames_per_second == pytest.approx(4 / online.seconds)
    offline = protocol.predict(network, views, offline=True)
    assert sorted(offline.order) == [0, 1, 2, 3]
    # The same views in that order give the same points.
    again = protocol.predict(network, [views[index] for index in offline.order])
    np.testing.assert_allclose(again.points, offline.points, atol=1e-5)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / 'tiny.safetensors'
    save_model(path, tiny_model(image_height=48, image_width=64))
    return path


def test_command_prints_scenes_and_mean_beside_the_paper(
        checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_seven_scenes(tmp_path / 'data', 4)
    write_seven_scenes(tmp_path / 'data', 4, 'stairs', 1)
    output = tmp_path / 'results.json'
    assert main(['benchmark', '7scenes', str(tmp_path / 'data'), str(checkpoint), '--every', '2',
                 '--device', 'cpu', '--long-term-tokens', '0', '--output', str(output)]) == 0
    table = capsys.readouterr().out
    for text in ('chess03', 'stairs01', '0.0342', '0.0237', 'metres'):
        assert text in table
    # The paper's mean over 18 sequences is printed next to its mean over these two.
    assert 'mean of 2 of 18' in table and "paper's Spann3R on these 2" in table
    assert f'{(.0237 + .0739) / 2:.4f}' in table
    assert "the paper's means are over 18 sequences; missing here: chess05, pumpkin01" in table
    written = json.loads(output.read_text())
    assert written['network'] == 'spann3r' and written['settings']['long_term_tokens'] == 0
    assert len(written['missing']) == 16 and 'redkitchen14' in written['missing']
    first = written['results'][0]
    assert first['scene'] == 'chess03' and first['frames'] == 2
    assert f'{first["clouds"]["accuracy"]["mean"]:.4f}' in table


def test_paths_have_a_mean_over_the_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    scores = [PathScores('desk', 4, 3, PathErrors(2.0, 0.1, 0.02, 1.0), 5.0),
              PathScores('xyz', 6, 6, PathErrors(4.0, 0.3, 0.04, 2.0), 7.0)]
    benchmark.print_paths(scores)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if 'mean of' in line]
    assert line.split() == ['mean', 'of', '2', '9/10', '3.00', '0.200', '0.030', '1.50', '6.00']


def row_of(table: str, method: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if f"paper's {method}  " in line]
    return line.split(method)[1].split()


def test_published_speeds_are_printed_where_there_are_any(
        capsys: pytest.CaptureFixture[str]) -> None:
    likeness = NearestDistances(0.1, 0.05), NormalConsistency(0.7, 0.8)
    clouds = CloudScores(likeness[0], likeness[0], likeness[1])
    arguments = Namespace(layout='nrgbd', few_view=False, tuples=None, offline=False)
    benchmark.print_clouds([SceneScores('kitchen', 30, clouds, 9.0)], arguments)
    table = capsys.readouterr().out
    assert table.count('65.49') == 1
    assert row_of(table, 'FrozenRecon')[-1] == '<0.1'
    assert row_of(table, "DUSt3R with Spann3R's weights")[-1] == '0.0520'  # no speed is told
    assert 'RTX 4090' in table and 'synchronised' in table and 'second head' in table
    arguments.few_view = True
    benchmark.print_clouds([SceneScores('kitchen', 8, clouds, 9.0)], arguments)
    few = capsys.readouterr().out
    assert row_of(few, 'Spann3R offline')[-1] == '5.83'
    assert row_of(few, 'DUSt3R')[-1] == '0.48' and '65.49' not in few
    arguments.layout = 'dtu'
    benchmark.print_clouds([SceneScores('scan1', 6, clouds, 9.0)], arguments)
    assert '72.04' not in capsys.readouterr().out


def test_scene_that_fails_does_not_lose_the_others(
        checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_seven_scenes(tmp_path / 'data', 4)
    write_seven_scenes(tmp_path / 'data', 4, 'stairs', 1)
    (tmp_path / 'data/chess/seq-03/frame-000002.color.png').write_bytes(b'')
    output = tmp_path / 'results.json'
    arguments = ['benchmark', '7scenes', str(tmp_path / 'data'), str(checkpoint), '--every', '2',
                 '--device', 'cpu', '--output']
    assert main([*arguments, str(output)]) == 1
    told = capsys.readouterr()
    assert 'frame-000002.color.png: expected an image' in told.err and 'stairs01' in told.out
    assert 'missing here: chess05' in told.err.split('1 of 2')[0]  # before hours are spent
    assert 'mean of 1 of 18' in told.out and 'FAILED, not in the mean: chess03' in told.out
    written = json.loads(output.read_text())
    assert written['failed'] == ['chess03']
    distances = written['results'][0]['clouds']
    assert distances['chamfer'] == pytest.approx(
        (distances['accuracy']['mean'] + distances['completion']['mean']) / 2)
    assert main([*arguments, str(tmp_path / 'nowhere/results.json')]) == 1
    assert 'output: expected a file in an existing folder' in capsys.readouterr().err


def test_tuples_of_one_scene_are_run(checkpoint: Path, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    write_seven_scenes(tmp_path / 'data', 3)
    write_seven_scenes(tmp_path / 'data', 3, 'stairs', 1)
    tuples = tmp_path / 'tuples.txt'
    tuples.write_text('stairs/seq-01 0 1\nchess/seq-03 0 2\n')
    assert main(['benchmark', '7scenes', str(tmp_path / 'data'), str(checkpoint), '--device',
                 'cpu', '--tuples', str(tuples), '--scene', 'chess03']) == 0
    table = capsys.readouterr().out
    assert 'mean of 1 of 18' in table and '\nstairs01' not in table and '0.0239' in table


def test_command_runs_few_views_offline_and_paths(
        checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dtu(tmp_path / 'dtu', 4)
    assert main(['benchmark', 'dtu', str(tmp_path / 'dtu'), str(checkpoint), '--few-view',
                 '--offline', '--device', 'cpu']) == 0
    table = capsys.readouterr().out
    assert 'mean of 4: 1 of 22 scans' in table and "paper's Spann3R offline" in table
    assert '2.88' in table and '2.878' not in table and 'millimetres' in table


def test_whole_set_of_the_paper_needs_no_remark() -> None:
    names = list(coverage.SCENE_NAMES['nrgbd'])
    covered = coverage.cover('nrgbd', names)
    assert (covered.label, covered.remarks) == ('mean of 9', [])
    few = coverage.cover('nrgbd', names * 3)
    assert (few.label, few.remarks) == ('mean of 27', [])


def test_scenes_that_are_not_the_papers_are_reported() -> None:
    names = [*coverage.SCENE_NAMES['nrgbd'][1:], 'attic', 'attic']
    covered = coverage.cover('nrgbd', names)
    assert covered.label == 'mean of 10: 8 of 9 scenes, 1 other'
    assert covered.remarks == [
        "INCOMPLETE: the paper's means are over 9 scenes; missing here: staircase.",
        "MIXED: this mean is also over what the paper's is not: attic."]


@pytest.mark.parametrize(('layout', 'count'), [('7scenes', 18), ('nrgbd', 9), ('dtu', 22)])
def test_sets_of_the_paper_have_the_published_sizes(layout: str, count: int) -> None:
    assert len(set(coverage.SCENE_NAMES[layout])) == count


@pytest.mark.parametrize('layout', ['7scenes', 'nrgbd'])
def test_figures_of_the_papers_scenes_have_its_mean(layout: str) -> None:
    mean = np.mean(list(published.SCENES[layout].values()), axis=0)
    np.testing.assert_allclose(mean, published.MEANS[layout, False]['Spann3R'], atol=2e-4)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--scene', 'bedroom'], "scene: expected one of ['kitchen'], got 'bedroom'"),
    (['--every', '0'], 'every: expected at least 1, got 0'),
    (['--every', '4'], 'kitchen: expected two views or more'),
    (['--few-view'], 'few-view: expected --tuples FILE'),
    (['--every', '2', '--device', 'toaster'], 'device: expected one of'),
])
def test_command_reports_bad_arguments(arguments: list[str], message: str, checkpoint: Path,
                                       tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nrgbd(tmp_path / 'data', 4)
    assert main(['benchmark', 'nrgbd', str(tmp_path / 'data'), str(checkpoint), *arguments]) == 1
    assert message in capsys.readouterr().err
