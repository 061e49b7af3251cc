# SPDX-License-Identifier: Apache-2.0
"""`spann3r COMMAND`: runs the module of the command, which imports large packages only then."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from spann3r_ros.networks.registry import resolve_checkpoint
from spann3r_ros.networks.threads import wait_without_spinning

from .options import BUNDLED

# Command and the module that has SUMMARY, add_arguments(parser) and run(args) -> exit status.
COMMANDS = {
    'info': 'weights.info',
    'convert': 'weights.convert',
    'evaluate': 'scores.evaluate',
    'evaluate-photos': 'scores.evaluate_photos',
    'evaluate-rgbd': 'scores.evaluate_rgbd',
    'ablate': 'scores.ablate',
    'benchmark': 'scores.benchmark',
    'check': 'scores.check',
    'train': 'weights.train',
    'pack-assets': 'weights.pack_assets',
    'make-demo-bag': 'recordings.make_demo_bag',
    'photos-to-bag': 'recordings.photos_to_bag',
    'replay': 'recordings.replay',
    'reconstruct': 'recordings.reconstruct',
    'report': 'scores.report',
    'export': 'maps.export',
    'map': 'maps.map',
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog='spann3r', description='Work with Spann3R checkpoints, bags and maps; needs no ROS.')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, module_name in COMMANDS.items():
        module = import_module(f'spann3r_ros.cli.commands.{module_name}')
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.add_arguments(command)
        command.set_defaults(execute=module.run)
    return parser


def benchmark() -> int:
    """Run `spann3r benchmark` under its short name `spann3r-eval`."""
    return main(['benchmark', *sys.argv[1:]])


def train() -> int:
    """Run `spann3r train` under its short name `spann3r-train`."""
    return main(['train', *sys.argv[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    wait_without_spinning()
    args = build_parser().parse_args(arguments)
    try:
        if getattr(args, 'checkpoint', None) is BUNDLED:
            args.checkpoint = resolve_checkpoint('')
        return args.execute(args)
    # Errors that the user can correct: a wrong value, a missing or unreadable file.
    except (ValueError, OSError) as error:
        print(f'spann3r: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
