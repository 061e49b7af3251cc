# SPDX-License-Identifier: Apache-2.0
"""`spann3r map merge`: two saved maps as one."""
from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = 'write a map that has the fragments of two saved maps'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('first', type=Path, help='a map, or the folder that has it')
    parser.add_argument('second', type=Path, help='another one of the same network and camera')
    parser.add_argument('--output', type=Path, required=True,
                        help='folder that gets the directory map')
    parser.add_argument('--same-frame', action='store_true',
                        help='both maps have one map frame, for example that of a localisation: '
                             'the second one is connected as it is')


def run(args: argparse.Namespace) -> int:
    """Merge the maps; return the exit status. Raises ValueError and OSError for bad maps."""
    from spann3r_ros.cli.options import without_frame_warnings
    from spann3r_ros.mapping.storage.map_directory import map_in, read_map
    from spann3r_ros.mapping.storage.merged_map import merge_maps
    target = map_in(args.output)
    for name in ('first', 'second'):
        if map_in(getattr(args, name)).resolve() == target.resolve():
            raise ValueError(f'output: expected another folder than that of the {name} map, got '
                             f'{args.output}')
    with without_frame_warnings():
        snapshot = merge_maps(read_map(args.first), read_map(args.second), args.same_frame)
    directory = snapshot.encode().write(args.output)
    status = snapshot.status
    print(f'{status.fragments} fragments, {status.fragments_unconnected} of them not connected, '
          f'{status.keyframes} keyframes, {status.voxels} voxels; wrote {directory}')
    return 0
