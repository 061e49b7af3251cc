# SPDX-License-Identifier: Apache-2.0
"""What the commands that map a recording share: arguments, settings, log, table of counts."""
from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spann3r_ros.pipeline.bag_replay import ReplaySummary
    from spann3r_ros.pipeline.node_settings import Settings

SUMMARY_FILE = 'summary.json'
# Exit statuses: the input or the settings are wrong; a fault of the program, or an empty map;
# the user has interrupted.
BAD_INPUT, FAULT, INTERRUPTED = 2, 1, 130


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the node's parameters, the weights, the folder of the results and the progress."""
    parser.add_argument('--params-file', type=Path, help="the node's parameters as YAML")
    parser.add_argument('--node-name', default='mapper',
                        help='node that has the parameters in that file, with its namespace if it '
                             'has one (default: %(default)s)')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', dest='changes',
                        help='a parameter, which overrides the file; may be repeated')
    parser.add_argument('--checkpoint', help='weights; default: the parameter, or the bundled '
                                             'model')
    parser.add_argument('--device', help='auto, cpu, cuda or cuda:N; default: the parameter')
    parser.add_argument('--output', type=Path, default=Path('output'),
                        help='folder of the results (default: %(default)s)')
    parser.add_argument('--quiet', action='store_true', help='show no progress')


def read_settings(args: argparse.Namespace) -> Settings:
    """Return the settings from file and arguments; raise ValueError for a wrong one."""
    from spann3r_ros.pipeline.node_settings import from_values, parse_values, read_yaml
    values = read_yaml(args.params_file, args.node_name) if args.params_file else {}
    values |= parse_values(args.changes)
    for name in ('checkpoint', 'device'):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    return from_values(values)


def set_up_logging(path: Path, warnings: logging.Handler) -> None:
    """Write the package's log to a file; count the warnings and show the errors on the screen."""
    file, screen = logging.FileHandler(path, 'w'), logging.StreamHandler()
    file.setFormatter(logging.Formatter('%(levelname)s %(name)s: %(message)s'))
    screen.setLevel(logging.ERROR)
    package = logging.getLogger('spann3r_ros')
    package.handlers = [file, screen, warnings]
    package.setLevel(logging.INFO)
    package.propagate = False


def network_rows(network: str, weights: Path, device: str, threads: int) -> list[tuple[str, str]]:
    """Return the rows of the report's table of the network; `device` is the parameter."""
    # A run without torch has no device to resolve, and its import takes seconds.
    if 'torch' in sys.modules:
        from spann3r_ros.networks.devices import resolve_device
        device = str(resolve_device(device))
    return [('network', network), ('weights', str(weights)), ('device', device),
            ('CPU threads', str(threads))]


def count_rows(summary: ReplaySummary, images: str) -> list[tuple[str, str]]:
    """Return the rows of the report's table of counts; `images` names the number of images."""
    scale = summary.scale
    return [
        (images, str(summary.images)),
        *((f'frames {name}', str(count)) for name, count in summary.frames.items()),
        ('of the skipped, blind', str(summary.blind)),
        ('recoveries after a failure', str(summary.recovered)),
        ('poses', str(summary.poses)), ('voxels', str(summary.voxels)),
        ('fragments', str(summary.fragments)), ('loops accepted', str(summary.loops)),
        ('scale', f'metric, by {scale["source"]}, ± {100 * scale["deviation"]:.2g} %'
         if scale['metric'] else 'not known'),
        ('seconds', f'{summary.seconds:.1f}'),
        *((f'SHA-256 of the {name}', digest) for name, digest in summary.sha256.items())]
