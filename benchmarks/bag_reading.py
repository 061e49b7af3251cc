# SPDX-License-Identifier: Apache-2.0
"""How fast a replay reads and decodes the images of a bag, without mapping them.

Run by `make bench-bags`. Bags of 640x480 images are written first, raw and JPEG, mcap and sqlite3;
every message goes through the reader and the decoder of `spann3r replay`.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / 'test'))

from recorded_bags import IMAGE_TOPIC, OrbitBag, stamp_of

from spann3r_ros.core.encodings import to_rgb
from spann3r_ros.datasets.bags import CameraBag, TopicNames
from spann3r_ros.evaluation.tables import format_table

HEIGHT, WIDTH = 480, 640
REPEATS = 5


def write_bag(path: Path, storage: str, kind: str, count: int) -> CameraBag:
    """Write a bag of smooth random images with calibration; return it open."""
    draw = np.random.default_rng(0)
    small = draw.integers(0, 256, (24, 32, 3), np.uint8)
    with OrbitBag(path, storage) as bag:
        for index in tqdm(range(count), f'{kind} {storage}', leave=False):
            rgb = cv2.resize(np.roll(small, index, axis=1), (WIDTH, HEIGHT),
                             interpolation=cv2.INTER_CUBIC)
            bag.info(index)
            if kind == 'raw':
                bag.write_raw_image(IMAGE_TOPIC, stamp_of(index), rgb)
            else:
                bag.write_image(f'{IMAGE_TOPIC}/compressed', stamp_of(index),
                                cv2.imencode('.jpg', rgb[..., ::-1])[1].tobytes())
    return CameraBag(path, TopicNames())


def read(bag: CameraBag) -> float:
    """Return the images per second of one pass."""
    began = time.perf_counter()
    count = 0
    for role, _, message in bag.messages():
        if role == 'image':
            to_rgb(message)
            count += 1
    return count / (time.perf_counter() - began)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=300)
    count = parser.parse_args().images
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ('raw', 'jpeg'):
            for storage in ('mcap', 'sqlite3'):
                with write_bag(Path(folder) / f'{kind}_{storage}', storage, kind, count) as bag:
                    rates = [read(bag) for _ in range(REPEATS)]
                rows.append([kind, storage, f'{statistics.median(rates):.0f}',
                             f'{min(rates):.0f}-{max(rates):.0f}'])
    print(format_table(['640x480', 'storage', 'images/s', 'range'], rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
