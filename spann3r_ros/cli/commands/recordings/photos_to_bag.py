# SPDX-License-Identifier: Apache-2.0
"""`spann3r photos-to-bag`: writes a folder of JPEG files as a bag of compressed images."""
from __future__ import annotations

import argparse
import time
from pathlib import Path

SUMMARY = 'write a folder of JPEG photographs as a bag, in the order of their names'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('photos', type=Path, help='folder of .jpg or .jpeg files')
    parser.add_argument('bag', type=Path, help='bag folder to write')
    parser.add_argument('--topic', default='/camera/image_raw/compressed',
                        help='default: %(default)s')
    parser.add_argument('--rate', type=float, default=10.0,
                        help='images per second (default: %(default)s)')
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                        help='default: %(default)s')


def run(args: argparse.Namespace) -> int:
    """Write the bag with the unchanged JPEG files."""
    from tqdm import tqdm

    from spann3r_ros.datasets.bag_writer import BagWriter
    photos = find_photos(args.photos)
    if not args.rate > 0.0:
        raise ValueError(f'rate: expected more than 0, got {args.rate}')
    start_ns, period_ns = time.time_ns(), round(1e9 / args.rate)
    with BagWriter(args.bag, args.storage) as bag:
        for index, photo in enumerate(tqdm(photos, unit='photo')):
            bag.write_image(args.topic, start_ns + index * period_ns, photo.read_bytes())
    print(f'wrote {args.bag}: {len(photos)} images on {args.topic}')
    return 0


def find_photos(folder: Path) -> list[Path]:
    """Return the JPEG files of a folder by name; raise ValueError if there is none."""
    photos = sorted(path for path in folder.glob('*') if path.suffix.lower() in ('.jpg', '.jpeg'))
    if not photos:
        raise ValueError(f'photos: expected .jpg or .jpeg files in {folder}, found none')
    return photos
