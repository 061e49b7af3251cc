# SPDX-License-Identifier: Apache-2.0
"""What a network's features and pairs give for loops, on unseen rooms: `make bench-loops`.

Each room is walked through with two full turns, so that every place is seen again. The depths of
the keyframes are the true ones: only the features and the pairs are those of the network.
"""
from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from spann3r_ros.core.network import Network
from spann3r_ros.core.similarity import SHIFT, TURN, error_vectors
from spann3r_ros.core.transforms import invert, invert_similarity
from spann3r_ros.core.types import FrameError
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    ASPECT,
    HeldOutConfig,
    Turn,
    depth_images,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    Sequence as RoomSequence,
)
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.loops.pair_alignment import MismatchError, View, align_both_ways
from spann3r_ros.mapping.loops.places import Places
from spann3r_ros.mapping.loops.verification import compare, match
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.memory_manager import MemoryManager
from spann3r_ros.networks.registry import open_network, resolve_checkpoint

TURN_OF_ROOM = Turn(80)
# Images at least so far apart, of which the smaller share is this, show a place again.
GAP, REVISIT = 20, 0.4
# Share of the pixels that both images show, from and to, by the name of a row.
KINDS = {'over 70 %': (0.7, 1.1), '50 to 70 %': (0.5, 0.7), '30 to 50 %': (0.3, 0.5),
         '10 to 30 %': (0.1, 0.3), 'none, one room': (-1.0, 0.01)}
OTHER_ROOM, MOST_SIMILAR = 'other room', 'most similar of another room'
TOLERANCE = 0.05


@dataclass(frozen=True)
class Room:
    """A sequence with true depths [n, h, w], descriptors [n, d] and overlaps [n, n]."""

    sequence: RoomSequence
    depths: np.ndarray
    descriptors: np.ndarray
    overlaps: np.ndarray

    def view(self, index: int) -> View:
        """Return an image as a keyframe with its true depth."""
        return View(self.sequence.images[index], self.depths[index].astype(np.float32),
                    self.sequence.intrinsics)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--rooms', type=int, default=4, help='rooms of each of both kinds')
    parser.add_argument('--pairs', type=int, default=100, help='pairs of each kind')
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    network = open_network(resolve_checkpoint(options.checkpoint))
    rooms = [_described(sequence, network)
             for varied in (False, True)
             for sequence in tqdm(draw_sequences(
                 unseen_rooms(HeldOutConfig(varied=varied), network.input_size(ASPECT)),
                 options.rooms, TURN_OF_ROOM), 'rooms', options.rooms)]
    rows = [_retrieval(name, rooms, whiten)
            for name, whiten in (('mean feature', False), ('whitened', True))]
    print(f'{len(rooms)} rooms as one map, {sum(len(one.depths) for one in rooms)} images')
    print(format_table(('descriptor', 'revisits', 'at 1', 'at 3', 'at 5'), rows))
    print(format_table(
        ('overlap', 'pairs', 'no pose', 'orders: degrees', 'shift', 'support', 'conflict',
         'correlation', 'error: degrees', 'shift', 'accepted'),
        list(_pair_rows(rooms, network, options.pairs))))
    print(format_table(('numbers of a descriptor', 'ms a keyframe', 'longest ms'),
                       [_times(numbers) for numbers in (192, 1024)]))
    return 0


def _described(sequence: RoomSequence, network: Network) -> Room:
    network.reset()
    estimates = [one for index, image in enumerate(sequence.images)
                 for one in network.step(image, index)] + network.flush()
    depths = depth_images(sequence)
    count = len(depths)
    seen = np.array([[_seen(sequence, depths, first, second) for second in range(count)]
                     for first in range(count)])
    return Room(sequence, depths, np.array([one.descriptor for one in estimates]),
                np.minimum(seen, seen.T))


def _seen(sequence: RoomSequence, depths: np.ndarray, first: int, second: int) -> float:
    """Return the share of the first image's pixels that the second one shows too."""
    camera, pose = sequence.intrinsics, invert(sequence.poses[second])
    x, y, z = pose[:3, :3] @ sequence.points[first].reshape(-1, 3).T + pose[:3, 3:]
    ahead = z > 0.0
    z = np.where(ahead, z, 1.0)
    columns, rows = np.rint(camera.fx * x / z + camera.cx), np.rint(camera.fy * y / z + camera.cy)
    inside = (ahead & (columns >= 0) & (columns < camera.width) & (rows >= 0)
              & (rows < camera.height))
    depth = depths[second][rows[inside].astype(int), columns[inside].astype(int)]
    return float((np.abs(depth - z[inside]) < TOLERANCE * z[inside]).sum() / len(z))


def _retrieval(name: str, rooms: list[Room], whiten: bool) -> tuple[str, ...]:
    """Return the shares of the revisits whose 1, 3 and 5 best candidates include a true one."""
    found: list[np.ndarray] = []
    descriptors = np.concatenate([room.descriptors for room in rooms])
    if whiten:
        places = Places()
        for number, descriptor in enumerate(descriptors):
            places.add(number, 0, descriptor)
        descriptors = places.whitened()
    descriptors = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    starts = np.cumsum([0, *(len(room.descriptors) for room in rooms)])
    for room, start in zip(rooms, starts, strict=False):
        for index in range(GAP, len(room.descriptors)):
            true = np.zeros(len(descriptors), bool)
            true[start:start + index - GAP] = room.overlaps[index, :index - GAP] > REVISIT
            if not true.any():
                continue
            similarity = descriptors @ descriptors[start + index]
            similarity[start + index - GAP:start + len(room.descriptors)] = -np.inf
            best = np.argsort(-similarity, kind='stable')[:5]
            found.append(np.logical_or.accumulate(true[best]))
    shares = np.mean(found, axis=0)
    return name, str(len(found)), *(f'{shares[rank - 1]:.2f}' for rank in (1, 3, 5))


def _pair_rows(rooms: list[Room], network: Network,
               count: int) -> Iterator[tuple[str, ...]]:
    rng = np.random.default_rng(0)
    memory = MemoryManager(network)
    for name, pairs in _draw_pairs(rooms, count, rng):
        results = [_try(rooms, pair, memory) for pair in tqdm(pairs, name)]
        values = np.array([numbers for numbers, _ in results], float)
        failed = np.isnan(values[:, 0])
        medians = [f'{one:.2f}' if np.isfinite(one) else '–' for one in (
            np.nanmedian(values, axis=0) if not failed.all() else values[0])]
        accepted = Counter(outcome for _, outcome in results)['']
        yield (name, str(len(pairs)), f'{failed.mean():.0%}', *medians, str(accepted))


def _draw_pairs(rooms: list[Room], count: int, rng: np.random.Generator,
                ) -> Iterator[tuple[str, list[tuple[int, int, int, int]]]]:
    """Yield the name of a kind and pairs (room, image, room, image)."""
    for name, (low, high) in KINDS.items():
        found = []
        for number, room in enumerate(rooms):
            index = np.arange(len(room.depths))
            far = np.abs(index[:, None] - index) >= GAP
            firsts, seconds = np.nonzero((room.overlaps > low) & (room.overlaps <= high) & far)
            found += [(number, one, number, two) for one, two in zip(firsts, seconds, strict=True)]
        yield name, [found[one] for one in rng.permutation(len(found))[:count]]
    drawn = [(*rng.choice(len(rooms), 2, replace=False), *rng.integers(80, size=2))
             for _ in range(count)]
    yield OTHER_ROOM, [(first, one, second, two) for first, second, one, two in drawn]
    places = Places()
    for number, room in enumerate(rooms):
        for index, descriptor in enumerate(room.descriptors):
            places.add(80 * number + index, number, descriptor)
    whitened, owner = places.whitened(), np.repeat(np.arange(len(rooms)), 80)
    found = []
    for one in rng.permutation(len(owner))[:count]:
        similarity = np.where(owner == owner[one], -np.inf, whitened @ whitened[one])
        two = int(similarity.argmax())
        found.append((owner[one], one % 80, owner[two], two % 80))
    yield MOST_SIMILAR, found


def _try(rooms: list[Room], pair: tuple[int, int, int, int],
         memory: MemoryManager) -> tuple[list[float], str]:
    """Return the numbers of a row for a pair, and why it is refused: '' if it is accepted."""
    config = MapperConfig()
    first, second = rooms[pair[0]], rooms[pair[2]]
    views = first.view(pair[1]), second.view(pair[3])
    try:
        alignment, difference = align_both_ways(*views, memory, config.pose)
    except (FrameError, MismatchError):
        return [np.nan] * 7, 'no pose'
    overlap = compare(*views, alignment.first_from_second, config.loops)
    near = float(np.median(views[1].depth))
    error = np.full(7, np.nan)
    if first is second:
        true = invert(first.sequence.poses[pair[1]]) @ first.sequence.poses[pair[3]]
        error = error_vectors(invert_similarity(alignment.first_from_second) @ true)
    try:
        match(*views, memory, config)
        outcome = ''
    except MismatchError as refusal:
        outcome = str(refusal)
    return [*_sizes(difference, near), overlap.support, overlap.conflict, overlap.correlation,
            *_sizes(error, near)], outcome


def _sizes(error: np.ndarray, depth: float) -> tuple[float, float]:
    """Return the rotation in degrees and the shift as a share of the depth."""
    return (float(np.degrees(np.linalg.norm(error[TURN]))),
            float(np.linalg.norm(error[SHIFT])) / depth)


def _times(numbers: int, keyframes: int = 2000, queries: int = 50) -> tuple[str, ...]:
    """Return the milliseconds of one core that a keyframe takes among so many others.

    The longest is one that the statistics are computed with.
    """
    rng = np.random.default_rng(0)
    places = Places()
    longest = 0.0
    for number in range(keyframes):
        descriptor = rng.standard_normal(numbers).astype(np.float32)
        started = time.process_time()
        places.add(number, number // 100, descriptor)
        longest = max(longest, time.process_time() - started)
    started = time.process_time()
    for number in range(queries):
        places.add(keyframes + number, -1, rng.standard_normal(numbers).astype(np.float32))
        places.candidates(20, 0.6, 5)
    return (str(numbers), f'{1000.0 * (time.process_time() - started) / queries:.2f}',
            f'{1000.0 * longest:.0f}')


if __name__ == '__main__':
    sys.exit(main())
