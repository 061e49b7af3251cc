# SPDX-License-Identifier: Apache-2.0
"""`spann3r pack-assets`: photographs and meshes for the places that a network is trained in."""
from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = 'fetch the photographs and meshes of training places, and pack them into one file'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--pack', type=Path, metavar='FILE',
                        help='file of the pack, made if it is not there (default: in the cache '
                             'folder, where training finds it)')
    parser.add_argument('--sheet', type=Path, metavar='FILE',
                        help='draw sequences of places to this image')
    parser.add_argument('--sequences', type=int, default=12, help='default: %(default)s')
    parser.add_argument('--frames', type=int, default=6, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Make the pack, list its sources, draw the sheet."""
    from spann3r_ros.rooms.assets.asset_pack import default_pack, ensure_pack, read_pack
    for name in ('sequences', 'frames'):
        if getattr(args, name) < 1:
            raise ValueError(f'--{name}: expected at least 1, got {getattr(args, name)}')
    path = args.pack or default_pack()
    ensure_pack(path)
    pack = read_pack(path)
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB, {pack.photographs} crops of photographs, '
          f'{len(pack.meshes)} meshes')
    for item in pack.sources:
        print(f"  {item['name']}: {item['licences']}")
    if args.sheet:
        import cv2
        import numpy as np

        from spann3r_ros.rooms.places.place_generator import PlaceConfig, PlaceGenerator
        generator = PlaceGenerator(PlaceConfig(), pack, args.seed)
        drawn = generator.batch(args.sequences, args.frames).images.permute(0, 3, 1, 4, 2)
        rows = drawn.flatten(2, 3).flatten(0, 1).numpy()
        if not cv2.imwrite(str(args.sheet), np.ascontiguousarray(rows[..., ::-1])):
            raise ValueError(f'--sheet: expected the name of an image file, got {args.sheet}')
        print(f'wrote {args.sheet}')
    return 0
