# SPDX-License-Identifier: Apache-2.0
"""`spann3r evaluate-photos`: errors of the path estimated from photographs with known poses."""
from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from spann3r_ros.cli.options import (
    add_checkpoint_argument,
    add_network_arguments,
    open_network,
    without_frame_warnings,
)
from spann3r_ros.core.files import write_json

if TYPE_CHECKING:
    from spann3r_ros.evaluation.photo_scores import PhotoScores

SUMMARY = 'score the path that a checkpoint estimates from photographs with known poses'
FORMAT = """\
The cameras are a JSON object:
  width, height      of every photograph, in pixels
  fx, fy, cx, cy     in pixels; pixel centres lie at whole numbers
  k1, k2, p1, p2, k3 lens distortion as in OpenCV; 0 where left out
  frames             in the order they were taken, each with
    image            file name in the folder
    camera_to_world  4x4, rows of numbers; camera axes x right, y down, z forward; any unit
"""
NOTE = """\
rotation: median angle; only the first camera is aligned. After one similarity: ATE / path length,
RPE between consecutive solved frames / mean step, and its rotation."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog, parser.formatter_class = FORMAT, argparse.RawDescriptionHelpFormatter
    parser.add_argument('photos', type=Path, help='folder of photographs')
    add_checkpoint_argument(parser)
    parser.add_argument('--cameras', type=Path,
                        help='JSON file of intrinsics and poses (default: cameras.json in the '
                             'folder)')
    parser.add_argument('--letterbox', action='store_true',
                        help='use whole photographs, smaller, instead of their middle')
    add_network_arguments(parser)
    parser.add_argument('--output', type=Path, help='JSON file to write the results to')
    parser.add_argument('--picture', type=Path,
                        help='PNG file: cloud and path from above and from the side')


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the files."""
    from tqdm import tqdm

    from spann3r_ros.datasets.photographs import read_photographs
    from spann3r_ros.evaluation.photo_scores import run_photographs, score_photographs
    from spann3r_ros.evaluation.pictures.photo_picture import draw_photographs
    from spann3r_ros.evaluation.tables import format_table
    photographs = read_photographs(args.photos, args.cameras or args.photos / 'cameras.json')
    network = open_network(args)
    with tqdm(total=len(photographs.paths), unit='photo') as bar, without_frame_warnings():
        result = run_photographs(network, photographs, args.letterbox, bar.update)
    scores = score_photographs(result)
    print(format_table((args.checkpoint.name, ''), table_rows(scores, result.coverage)))
    print(NOTE)
    if args.output:
        write_json(args.output, {'checkpoint': args.checkpoint.name} | asdict(scores))
    if args.picture:
        draw_photographs(args.picture, result, scores)
    return 0


def table_rows(scores: PhotoScores, coverage: float) -> list[tuple[str, str]]:
    """Return the rows of the table; fewer without a path."""
    rows = [('photographs', str(scores.frames)),
            ('share of each that is seen', f'{100 * coverage:.0f} %'),
            ('poses solved', str(scores.solved))]
    if scores.path is None:
        return rows
    length = scores.path.path_length
    mean_step = length / (scores.solved - 1)
    return [*rows, ('rotation', f'{scores.rotation_deg:.1f} deg'),
            ('ATE', f'{scores.path.trajectory_error / length:.3f}'),
            ('ATE of a camera that stands still', f'{scores.still / length:.3f}'),
            ('RPE', f'{scores.path.translation / mean_step:.2f}'),
            ('RPE rot.', f'{scores.path.rotation_deg:.1f} deg')]
