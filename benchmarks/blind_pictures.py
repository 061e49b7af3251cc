# SPDX-License-Identifier: Apache-2.0
"""How many pictures count as blind: `make bench-blind-pictures`.

The pictures are those of the bundled bag, of the held-out rooms of `spann3r evaluate`, and of
folders that are given. Each is judged as it is and with each defect of `blind_images.py`, always
after the images before it as they are. `--times` measures how long the test of an image takes
instead.
"""
from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
from blind_images import DEFECTS, bag_frames

from spann3r_ros import share_directory
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import preprocess
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    HeldOutConfig,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.mapper_config import SightConfig
from spann3r_ros.mapping.selection.image_content import measure_content
from spann3r_ros.mapping.selection.sight import Sight

PERIOD_NS = 10**8
INPUT_SIZE = (96, 96)  # of the bundled network
TIMED_SIZES = (96, 224, 512)
TIMED_REPEATS = 500
SUFFIXES = ('.jpg', '.jpeg', '.png')


def judge(sequences: Iterable[Sequence[np.ndarray]], every: int) -> dict[str, list[object]]:
    """Return what the pictures show, as they are and spoilt, by the defect.

    A value is whether the picture is blind, its detail and its sharpness. Every `every`-th picture
    is spoilt.
    """
    rng = np.random.default_rng(0)
    found: dict[str, list[object]] = {'none': [], **{name: [] for name in DEFECTS}}
    for images in sequences:
        sight = Sight(SightConfig())
        for index, image in enumerate(images):
            stamp_ns = index * PERIOD_NS
            if index % every == every - 1:
                for name, spoil in DEFECTS.items():
                    view = images[index - 1] if name == 'frozen' else spoil(image, rng)
                    found[name].append(_judged(deepcopy(sight), view, stamp_ns))
            found['none'].append(_judged(sight, image, stamp_ns))
    return found


def _judged(sight: Sight, image: np.ndarray, stamp_ns: int) -> tuple[bool, float, float]:
    view = preprocess(Frame(stamp_ns, 'camera', image), INPUT_SIZE)
    content = measure_content(view.image)
    return (sight.is_blind(view, stamp_ns, may_repeat=False), content.detail, content.sharpness)


def drawn_rooms(config: HeldOutConfig) -> Iterator[np.ndarray]:
    """Yield the image sequences of the held-out rooms."""
    for turn in config.turns:
        for sequence in draw_sequences(unseen_rooms(config, INPUT_SIZE), config.rooms, turn):
            yield sequence.images


def photographs(folder: Path) -> list[np.ndarray]:
    """Return the images of a folder in the order of their names."""
    return [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES]


def median_ms(image: np.ndarray) -> float:
    """Return how long the test of an image takes, in milliseconds."""
    times = []
    for _ in range(TIMED_REPEATS):
        began_sec = time.perf_counter()
        measure_content(image)
        times.append(1e3 * (time.perf_counter() - began_sec))
    return statistics.median(times)


def main() -> int:
    """Print a table for each set of pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='*', type=Path, help='folders of photographs')
    parser.add_argument('--every', type=int, default=10, help='spoil every n-th picture')
    parser.add_argument('--times', action='store_true', help='measure the time of the test only')
    arguments = parser.parse_args()
    logging.getLogger('spann3r_ros').setLevel(logging.ERROR)
    bag = [frame.rgb for frame in bag_frames(share_directory() / 'bags' / 'demo_room')]
    if arguments.times:
        print(format_table(['size', 'median ms'], [
            [f'{size}x{size}', f'{median_ms(cv2.resize(bag[0], (size, size))):.2f}']
            for size in TIMED_SIZES]))
        return 0
    sets: dict[str, Iterable[Sequence[np.ndarray]]] = {
        'bundled bag': [bag], 'held-out rooms': drawn_rooms(HeldOutConfig()),
        'held-out rooms, varied': drawn_rooms(HeldOutConfig(varied=True))}
    sets |= {str(folder): [photographs(folder)] for folder in arguments.folders}
    for name, sequences in sets.items():
        rows = []
        for defect, judged in judge(sequences, arguments.every).items():
            blind, detail, sharpness = zip(*judged, strict=True)
            rows.append([defect, str(len(judged)), str(sum(blind)), *(
                f'{np.percentile(values, q):.2f}' for values in (detail, sharpness)
                for q in (0, 50, 100))])
        print(f'\n{name}\n' + format_table(
            ['defect', 'pictures', 'blind', 'detail least', 'median', 'largest',
             'sharpness least', 'median', 'largest'], rows), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
