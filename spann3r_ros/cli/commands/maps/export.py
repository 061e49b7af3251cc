# SPDX-License-Identifier: Apache-2.0
"""`spann3r export`: writes a saved map in the formats of other programs."""
from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = 'write a saved map in the formats of other programs'
EPILOG = """\
Formats: ply, pcd, mesh, glb, tum, kitti, nerfstudio, colmap, colmap-text. docs/exports.md has
their axes and units."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument('map', type=Path,
                        help='directory of a saved map, or the folder that has it')
    parser.add_argument('--to', required=True, metavar='FORMAT[,FORMAT...]',
                        help='formats, separated by commas')
    parser.add_argument('--output', type=Path,
                        help='folder of the files (default: export, beside the map)')
    parser.add_argument('--images', type=Path,
                        help='folder or bag of the recorded images; those of the keyframes are '
                             'written for nerfstudio and colmap')
    parser.add_argument('--topic', default='',
                        help='image topic of the bag; default: that of the only camera')
    parser.add_argument('--quiet', action='store_true', help='show no progress')


def run(args: argparse.Namespace) -> int:
    """Write the files and print their names."""
    from dataclasses import replace

    from tqdm import tqdm

    from spann3r_ros.core.files import replace_directory, write_files
    from spann3r_ros.mapping.exports.export_map import (
        IMAGES,
        MODEL,
        NEED_VIEWS,
        check_formats,
        export,
        read_formats,
    )
    from spann3r_ros.mapping.exports.map_content import read_content
    from spann3r_ros.mapping.storage.map_directory import find_directory
    formats = read_formats(args.to)
    directory = find_directory(args.map)
    output = args.output or directory.absolute().parent / 'export'
    if args.images and not set(formats) & set(NEED_VIEWS):
        raise ValueError(f'images: expected one of the formats {", ".join(NEED_VIEWS)} with them, '
                         f'got {args.to!r}')
    content = read_content(directory)
    check_formats(content, formats)
    if args.images:
        from .keyframe_images import write_images
        found = write_images(content, args.images, args.topic, output / IMAGES, args.quiet)
        lost = {view.number: view.stamp_ns for view in content.views}
        for view in found:
            del lost[view.number]
        if lost:
            print(f'{len(lost)} of {len(content.views)} keyframes are left out: their images are '
                  f'not in {args.images}, the first of stamp {min(lost.values())} ns')
        content = replace(content, views=found)
    files = export(content, formats, lambda numbers, what: tqdm(
        numbers, what, disable=args.quiet))
    output.mkdir(parents=True, exist_ok=True)
    model = {Path(name).name: data for name, data in files.items() if name.startswith(MODEL)}
    if model:
        # As a whole: COLMAP reads a binary model that is left from before rather than the text.
        (output / MODEL).parent.mkdir(exist_ok=True)
        replace_directory(output / MODEL, model)
    write_files({output / name: data for name, data in files.items()
                 if not name.startswith(MODEL)})
    for name, data in files.items():
        print(f'{output / name}: {len(data) / 1e6:.2f} MB')
    if set(formats) & set(NEED_VIEWS):
        print(f'{len(content.views)} images in {output / IMAGES}' if args.images else
              'the images are not written; name their folder or bag by --images')
    return 0
