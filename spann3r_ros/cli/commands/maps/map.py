# SPDX-License-Identifier: Apache-2.0
"""`spann3r map COMMAND`: commands on saved maps, one file each."""
from __future__ import annotations

import argparse
from importlib import import_module

SUMMARY = 'look into saved maps and merge them'
# Command and the module that has SUMMARY, add_arguments(parser) and run(args) -> exit status.
COMMANDS = {
    'info': 'maps.map_info',
    'merge': 'maps.map_merge',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, module_name in COMMANDS.items():
        module = import_module(f'spann3r_ros.cli.commands.{module_name}')
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.add_arguments(command)
        command.set_defaults(execute_map=module.run)


def run(args: argparse.Namespace) -> int:
    """Run one of the commands; return its exit status."""
    return args.execute_map(args)
