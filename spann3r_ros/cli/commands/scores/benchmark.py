# SPDX-License-Identifier: Apache-2.0
"""`spann3r benchmark`, or `spann3r-eval`: the paper's evaluation on recorded sequences."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from spann3r_ros.cli.options import add_network_arguments, read_compute, read_settings
from spann3r_ros.core.files import write_json

if TYPE_CHECKING:
    from spann3r_ros.datasets.rgbd import RgbdSequence
    from spann3r_ros.evaluation.paper.protocol import PathScores, SceneScores

SUMMARY = 'evaluate a checkpoint on 7-Scenes, NRGBD, DTU or TUM RGB-D as the paper does'
LAYOUTS = ('7scenes', 'nrgbd', 'dtu', 'tum')
CLOUD_HEADER = ('scene', 'result', 'accuracy', 'median', 'completion', 'median', 'normals',
                'median', 'Chamfer', 'frames', 'frames/s')
PATH_HEADER = ('scene', 'poses', 'path m', 'ATE m', 'RPE m', 'RPE deg', 'frames/s')
CLOUD_NOTE = """\
Depth shift and scale by medians in the first view's frame, then rigid point-to-point ICP.
accuracy, completion: nearest distances in {unit}; normals: agreement, the mean of both directions.
Chamfer: mean of mean accuracy and mean completion.
frames/s: the time in the network, with images and points in host memory, including warm-up; the
second head runs only where its result is used. The paper's is one figure for 7-Scenes and NRGBD,
for Spann3R on an RTX 4090: not synchronised explicitly, both heads on every view.
The paper's figures are for version 1.0; for 1.01 its authors report Chamfer distances."""
PATH_NOTE = """\
Camera poses by PnP from the pointmaps with the given intrinsics, after one similarity.
ATE: RMS of positions; RPE: RMS of the motion between consecutive solved views."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('layout', choices=LAYOUTS, help='how the folder is laid out')
    parser.add_argument('root', type=Path, help="the data set's folder")
    parser.add_argument('checkpoint', type=Path, help='.safetensors or official .pth file')
    parser.add_argument('--scene', action='append', metavar='NAME',
                        help='only this sequence, as named in the table; may be repeated')
    parser.add_argument('--every', type=int,
                        help='use every n-th view (default: as in the paper)')
    parser.add_argument('--few-view', action='store_true',
                        help='few views: those in --tuples, or on DTU those in pair.txt')
    parser.add_argument('--tuples', type=Path,
                        help="file of few-view sequences, each in a line 'SCENE VIEW VIEW ...'")
    parser.add_argument('--offline', action='store_true',
                        help='let the network choose the order of the views')
    add_network_arguments(parser)
    parser.add_argument('--output', type=Path, help='JSON file to write the results to')


def run(args: argparse.Namespace) -> int:
    """Evaluate scene by scene, print the tables, write the file."""
    from spann3r_ros.evaluation.paper import protocol
    from spann3r_ros.evaluation.paper.coverage import cover
    from spann3r_ros.networks.registry import kind_of
    if args.every is not None and args.every < 1:
        raise ValueError(f'every: expected at least 1, got {args.every}')
    kind = kind_of(args.checkpoint)
    settings = read_settings(args, kind)
    # All arguments are checked before the first long computation.
    if args.output and not args.output.parent.is_dir():
        raise ValueError(f'output: expected a file in an existing folder, got {args.output}')
    sequences = list(find_sequences(args))
    coverage = cover(args.layout, [sequence.name for sequence in sequences])
    for remark in coverage.remarks if coverage else ():
        print(f'spann3r: {remark}', file=sys.stderr)
    network = kind.open(args.checkpoint, settings, read_compute(args))
    score = protocol.score_path if args.layout == 'tum' else protocol.score_scene
    scores, failed = [], []
    for number, sequence in enumerate(sequences, start=1):
        print(f'{number} of {len(sequences)}: {sequence.name}, {len(sequence.views)} views',
              file=sys.stderr)
        try:
            height, width = sequence.image_size()
            views = protocol.load_views(sequence, network.input_size(width / height))
            prediction = protocol.predict(network, views, args.offline)
            scores.append(score(sequence, views, prediction))
        except ValueError as error:  # the other scenes, which may take hours, are still evaluated
            print(f'spann3r: {error}', file=sys.stderr)
            failed.append(sequence.name)
    if scores:
        print_paths(scores) if args.layout == 'tum' else print_clouds(scores, args)
    if failed:
        print(f'FAILED, not in the mean: {", ".join(failed)}')
    if args.output:
        coverage = cover(args.layout, [item.scene for item in scores])
        write_json(args.output, {
            'checkpoint': args.checkpoint.name, 'layout': args.layout,
            'few_view': is_few_view(args), 'offline': args.offline, 'network': kind.name,
            'settings': asdict(settings),
            'results': [report(item) for item in scores], 'failed': failed,
            'missing': list(coverage.missing) if coverage else []})
    return 1 if failed else 0


def is_few_view(args: argparse.Namespace) -> bool:
    """Return whether the arguments select few-view sequences."""
    return args.few_view or args.tuples is not None


def report(item: SceneScores | PathScores) -> dict[str, Any]:
    """Return the scores of one scene for JSON."""
    values = asdict(item)
    if 'clouds' in values:
        values['clouds']['chamfer'] = item.clouds.chamfer
    return values


def find_sequences(args: argparse.Namespace) -> Iterator[RgbdSequence]:
    """Yield the selected sequences with the views that are used."""
    from dataclasses import replace

    from spann3r_ros.datasets.folders import LAYOUTS as READERS
    from spann3r_ros.evaluation.paper import protocol
    found = {sequence.name: sequence for sequence in READERS[args.layout](args.root)}
    unknown = sorted(set(args.scene or ()) - set(found))
    if unknown:
        raise ValueError(f'scene: expected one of {sorted(found)}, got {unknown[0]!r}')
    wanted = {name: item for name, item in found.items() if name in (args.scene or found)}
    if is_few_view(args) and args.layout == 'tum':
        raise ValueError('few-view: expected 7scenes, nrgbd or dtu, got tum')
    if args.few_view and args.tuples is None and args.layout != 'dtu':
        raise ValueError(f'few-view: expected --tuples FILE, {args.layout} has no list of its own')
    if args.tuples is not None:
        yield from (item for item in protocol.read_tuples(args.tuples, found)
                    if item.name in wanted)
        return
    selection = protocol.SELECTIONS[args.layout]
    if args.every is not None:
        selection = replace(selection, every=args.every)
    for sequence in wanted.values():
        if args.few_view:
            yield from protocol.few_views(sequence)
        else:
            yield selection.of(sequence)


def print_clouds(scores: list[SceneScores], args: argparse.Namespace) -> None:
    """Print each scene and the mean, with the figures of the paper."""
    from spann3r_ros.evaluation.paper import published
    from spann3r_ros.evaluation.paper.coverage import cover
    from spann3r_ros.evaluation.tables import format_table
    few = is_few_view(args)
    digits = 2 if args.layout == 'dtu' else 4
    paper = {} if few or args.offline else published.SCENES.get(args.layout, {})
    coverage = cover(args.layout, [item.scene for item in scores])
    rows, figures = [], []
    for item in scores:
        own = cloud_figures(item)
        figures.append(own)
        rows.append([item.scene, 'this checkpoint', *cells(own, digits), str(item.frames),
                     f'{item.frames_per_second:.2f}'])
        if item.scene in paper:
            rows.append(['', "paper's Spann3R", *cells(paper[item.scene], digits), '', ''])
    speed = mean(item.frames_per_second for item in scores)
    rows.append([coverage.label, 'this checkpoint', *cells(column_means(figures), digits),
                 str(sum(item.frames for item in scores)), f'{speed:.2f}'])
    if paper and coverage.missing and not coverage.others:
        same = column_means([paper[item.scene] for item in scores])
        rows.append(['', f"paper's Spann3R on these {len(scores)}", *cells(same, digits), '', ''])
    rows += published_rows(args, digits)
    print(format_table(CLOUD_HEADER, rows))
    for remark in coverage.remarks:
        print(remark)
    print(CLOUD_NOTE.format(unit='millimetres' if args.layout == 'dtu' else 'metres'))


def published_rows(args: argparse.Namespace, digits: int) -> list[list[str]]:
    """Return the rows of figures that the paper and its authors report for the whole data set."""
    from spann3r_ros.evaluation.paper import published
    few = is_few_view(args)
    speeds = published.SPEEDS.get((args.layout, few), {})
    rows = [['', f"paper's {method}", *cells(values, digits), '', speeds.get(method, '')]
            for method, values in published.MEANS.get((args.layout, few), {}).items()]
    if not few and not args.offline:
        blank = [''] * 6
        rows.append(['', "authors' Spann3R v1.01", *blank,
                     f'{published.CHAMFER_V101[args.layout]:.{digits}f}', '', ''])
    return rows


def print_paths(scores: list[PathScores]) -> None:
    """Print the errors of the poses of each sequence, and their mean."""
    from spann3r_ros.evaluation.tables import format_table
    figures = [[item.errors.path_length, item.errors.trajectory_error, item.errors.translation,
                item.errors.rotation_deg, item.frames_per_second] for item in scores]
    rows = [[item.scene, f'{item.solved}/{item.frames}', *path_cells(own)]
            for item, own in zip(scores, figures, strict=True)]
    solved, frames = (sum(getattr(item, name) for item in scores) for name in ('solved', 'frames'))
    rows.append([f'mean of {len(scores)}', f'{solved}/{frames}',
                 *path_cells(column_means(figures))])
    print(format_table(PATH_HEADER, rows))
    print(PATH_NOTE)


def path_cells(figures: Sequence[float]) -> list[str]:
    """Return length, ATE and RPE, the latter's rotation, and frames/s as text."""
    return [f'{value:.{digits}f}'
            for value, digits in zip(figures, (2, 3, 3, 2, 2), strict=True)]


def cloud_figures(item: SceneScores) -> list[float]:
    """Return mean and median of accuracy, completion and normals."""
    parts = (item.clouds.accuracy, item.clouds.completion, item.clouds.normals)
    return [value for part in parts for value in (part.mean, part.median)]


def column_means(figures: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each column."""
    return [mean(column) for column in zip(*figures, strict=True)]


def cells(figures: Sequence[float], digits: int) -> list[str]:
    """Return distances with so many digits, normals with four, and the Chamfer distance."""
    texts = [f'{value:.{digits if index < 4 else 4}f}' for index, value in enumerate(figures)]
    return [*texts, f'{(figures[0] + figures[2]) / 2:.{digits}f}']
