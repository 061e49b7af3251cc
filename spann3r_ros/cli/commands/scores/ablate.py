# SPDX-License-Identifier: Apache-2.0
"""`spann3r ablate`: scores on held-out rooms with and without each part of the memory."""
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
    from spann3r_ros.evaluation.held_out.ablation import Ablated, MeanOfRooms

SUMMARY = 'score a checkpoint on unseen rooms with and without each part of the memory'
FRAMES = (60, 80, 200)
HEADER = ('sequence', 'memory', 'accuracy', 'completion', 'point', 'ATE')
NOTE = """\
The scores are those of `spann3r evaluate`, +- their standard error over the rooms. Below each
memory: the mean increase in the same room when this part is left out, +- its standard error. An
increase above 0 is worse."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument('--rooms', type=int, default=20, help='default: %(default)s')
    parser.add_argument('--frames', type=int, nargs='+', default=FRAMES,
                        help='sequences of so many frames (default: %(default)s)')
    parser.add_argument('--varied', action='store_true', help='the rooms of `evaluate --varied`')
    add_network_arguments(parser)
    parser.add_argument('--output', type=Path, help='JSON file to write the results to')


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the file."""
    from tqdm import tqdm

    from spann3r_ros.evaluation.held_out.ablation import ablate, ablated_settings
    from spann3r_ros.evaluation.held_out.held_out_rooms import HeldOutConfig
    from spann3r_ros.evaluation.tables import format_table
    from spann3r_ros.networks.registry import kind_of
    config = HeldOutConfig(rooms=args.rooms, varied=args.varied)
    config = replace(config, turns=tuple(
        turn for turn in config.turns if turn.frames in args.frames))
    kind = kind_of(args.checkpoint)
    variants = ablated_settings(kind, read_settings(args, kind))
    whole = kind.open(args.checkpoint, read_settings(args, kind), read_compute(args))
    networks = {name: kind.vary(whole, settings) for name, settings in variants.items()}
    sequences = config.rooms * len(config.turns) * len(networks)
    with tqdm(total=sequences, unit='sequence') as bar, without_frame_warnings():
        results = ablate(networks, config, bar.update)
    print(format_table(HEADER, table_rows(results)))
    print(NOTE)
    if args.output:
        write_json(args.output, {
            'checkpoint': args.checkpoint.name, 'config': asdict(config),
            'results': [asdict(item) for item in results]})
    return 0


def table_rows(results: list[Ablated]) -> list[list[str]]:
    """Return the cells: per sequence and memory the scores, and under them the differences."""
    rows, turn = [], ''
    for result in results:
        first = result.turn != turn
        turn = result.turn
        rows.append([turn if first else '', result.memory,
                     *(cell(item, '.3f') for item in result.scores)])
        if not first:
            rows.append(['', '  adds', *(cell(item, '+.4f') for item in result.differences)])
    return rows


def cell(estimate: MeanOfRooms, style: str) -> str:
    """Return a mean and its standard error as text."""
    return f'{estimate.mean:{style}} +-{estimate.error:.4f}'
