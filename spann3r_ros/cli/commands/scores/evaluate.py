# SPDX-License-Identifier: Apache-2.0
"""`spann3r evaluate`: scores on held-out rooms, with trivial answers and reference figures."""
from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spann3r_ros.cli.options import (
    add_checkpoint_argument,
    add_network_arguments,
    read_compute,
    read_settings,
    without_frame_warnings,
)
from spann3r_ros.core.files import write_json

if TYPE_CHECKING:
    from spann3r_ros.evaluation.held_out.held_out_rooms import Sequence, Turn
    from spann3r_ros.evaluation.held_out.references import Reference
    from spann3r_ros.evaluation.held_out.room_scores import TurnResult
    from spann3r_ros.evaluation.recorded_runs import RecordedRun

SUMMARY = 'score a checkpoint on unseen procedural rooms, and two trivial answers beside it'
HEADER = ('sequence', 'answer', 'solved', 'failed', 'accuracy', 'completion', 'point', 'normals',
          'rotation', 'position', 'ATE', 'RPE', 'RPE rot.', 'NEES', 'median')
COLUMNS = ('accuracy', 'completion', 'point', 'normals', 'rotation_deg', 'position', 'trajectory',
           'step', 'step_deg', 'nees', 'nees_median')
NOTE = """\
Streaming inference, one refined pointmap per frame, compared in the first camera's frame after
fitting one global scale (least squares over all points); nothing else is aligned.
accuracy, completion: mean nearest distance / mean of the room's two horizontal sides.
point: mean distance to the true point / mean true distance. normals: mean |cosine|. rotation,
position: of poses by PnP and tracked corners (median degrees; RMS / mean side). After one
similarity: ATE / path length, RPE from frame to frame / mean step, and its rotation.
NEES, median: mean and median over frames of the normalised squared error of position and
rotation / 6: 1 if errors are as large as the covariance of the poses says. In the first camera's
frame, where the covariance begins, with the scale of the similarity; nothing else is aligned.
solved: frames with a pose. failed: rooms without scores, which are in no mean; "poses n more":
further rooms without a pose, which are not in the means from rotation on.
+-: standard error over the rooms. "as it is mapped": the points as the mapper moves them with
that path, without those of low confidence.
"true poses + median depth" uses the true poses."""
ANSWERS = {'mapped': 'as it is mapped', 'plane': 'plane, camera still',
           'median': 'median pointmap', 'posed_depth': 'true poses + median depth'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument('--rooms', type=int, default=20, help='default: %(default)s')
    parser.add_argument('--frames', type=int, nargs='+',
                        help='only sequences of so many frames (default: all kinds)')
    parser.add_argument('--varied', action='store_true',
                        help='rooms with doors, seats and tables, other fields of view, dark '
                             'corners and streaks; and a path that wanders')
    add_network_arguments(parser)
    parser.add_argument('--cuda-graph', action='store_true', help='record its steps, on CUDA')
    parser.add_argument('--reference', type=Path,
                        help='JSON file of figures to compare with, for example one that --output '
                             'wrote for another checkpoint on the same rooms')
    parser.add_argument('--name', help="the results' name in that file (default: the "
                                       "checkpoint's)")
    parser.add_argument('--output', type=Path, help='JSON file to write the results to')
    parser.add_argument('--picture', type=Path,
                        help='PNG file: the mapped and the true first room of every kind')


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the file."""
    from tqdm import tqdm

    from spann3r_ros.evaluation.held_out.held_out_rooms import WANDERING, HeldOutConfig
    from spann3r_ros.evaluation.held_out.references import Reference, read_reference
    from spann3r_ros.evaluation.held_out.room_scores import evaluate_held_out
    from spann3r_ros.evaluation.pictures.room_pictures import RoomPicture, draw_rooms
    from spann3r_ros.evaluation.tables import format_table
    from spann3r_ros.networks.registry import kind_of
    kind = kind_of(args.checkpoint)
    settings = read_settings(args, kind)
    config = HeldOutConfig(rooms=args.rooms, varied=args.varied)
    if args.varied:
        config = replace(config, turns=(*config.turns, WANDERING))
    if args.frames:
        config = replace(config, turns=tuple(
            turn for turn in config.turns if turn.frames in args.frames))
    reference = read_reference(args.reference, config) if args.reference else Reference()
    network = kind.open(args.checkpoint, settings, read_compute(args))
    firsts: dict[str, RoomPicture] = {}
    total = config.rooms * len(config.turns)
    with tqdm(total=total, unit='sequence') as bar, without_frame_warnings():
        def observe(turn: Turn, sequence: Sequence, run: RecordedRun) -> None:
            firsts.setdefault(turn.name, RoomPicture(turn.name, sequence, run))
            bar.update()

        results = evaluate_held_out(network, config, observe)
    print(format_table(HEADER, table_rows(results, reference)))
    print(NOTE)
    if args.output:
        write_json(args.output, {
            'name': args.name or args.checkpoint.name, 'checkpoint': args.checkpoint.name,
            'config': asdict(config), 'network': kind.name, 'settings': asdict(settings),
            'results': [asdict(item) for item in results],
        })
    if args.picture:
        draw_rooms(args.picture, list(firsts.values()))
    return 0


def table_rows(results: list[TurnResult], reference: Reference) -> list[list[str]]:
    """Return the cells: per sequence the network, the reference and the trivial answers."""
    rows = []
    for result in results:
        values = {'this checkpoint': asdict(result.network) | asdict(result.network_poses)
                  | {'normals': result.normals}}
        if result.turn in reference.turns:
            values[reference.name] = reference.turns[result.turn]
        values |= {label: asdict(getattr(result, name)) for name, label in ANSWERS.items()}
        for index, (label, scores) in enumerate(values.items()):
            rows.append([result.turn if index == 0 else '', label, '', '',
                         *(cell(scores, column) for column in COLUMNS)])
        own = rows[-len(values)]
        own[2:4] = accounts(result)
        own[4] += f' +-{result.uncertainty.accuracy:.3f}'
    return rows


def accounts(result: TurnResult) -> tuple[str, str]:
    """Return the share of poses that were solved, and the number of rooms missing in a mean."""
    solved = f'{100.0 * (1.0 - result.network_poses.unsolved):.1f} %'
    lacking = [f'{result.failed} of {result.rooms}']
    scored = result.rooms - result.failed
    if result.posed < scored:
        lacking.append(f'poses {scored - result.posed} more')
    return solved, ', '.join(lacking)


def cell(scores: dict[str, float], column: str) -> str:
    """Return one value as text, or a dash if there is none."""
    if column not in scores:
        return '-'
    return f'{scores[column]:.1f} deg' if column.endswith('_deg') else f'{scores[column]:.3f}'
