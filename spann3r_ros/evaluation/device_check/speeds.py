# SPDX-License-Identifier: Apache-2.0
"""Layouts of a network image by image in turn, so that all see the same machine."""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from spann3r_ros.evaluation.held_out.held_out_rooms import (
    HeldOutConfig,
    Turn,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.networks.checkable import Checks, Variant
from spann3r_ros.networks.stopwatch import machine_rates

MEBI = 2**20
# Steps before anything is measured: kernels are chosen, caches filled.
FIRST_STEPS = 3
READ_TOKENS = 4000
DIFFERENT_IMAGES = 12
# Of the matrices whose products show the rates of a machine.
QUICK_SIDE = 512


@dataclass(frozen=True)
class Length:
    """Images that only fill the memory, then images that are timed.

    Of the first `compared` images deviations are measured. `quick` measures the machine's rates by
    small products.
    """

    filling: int
    timed: int
    compared: int = 50
    quick: bool = False


@dataclass
class Timed:
    """What a layout took, in seconds from the image in host memory to the result there.

    `final` is the time to the final prediction, `both` to both predictions. `peak` is the device
    memory in bytes while it was built and took its first steps; 0 on a CPU. `deviations` are the
    median distances from the points of the first layout, as shares of their distances.
    """

    variant: Variant
    peak: int
    final: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    deviations: list[float] = field(default_factory=list)

    def run(self, image: np.ndarray, timed: bool) -> np.ndarray | None:
        """Take an image; return the final prediction that it completes."""
        began = time.perf_counter()
        final = self.variant.step(image)
        middle = time.perf_counter()
        self.variant.newest()
        if timed:
            self.final.append(middle - began)
            self.both.append(time.perf_counter() - began)
        return final


def walk(height: int, width: int, count: int, different: int | None = None) -> np.ndarray:
    """Return images uint8 [count, height, width, 3] of a turn through an unseen room.

    With `different` the turn has so many images, which follow each other to and fro.
    """
    rooms = unseen_rooms(HeldOutConfig(), (height, width))
    drawn = min(count, different or count)
    images = next(iter(draw_sequences(rooms, 1, Turn(drawn)))).images
    there = np.arange(drawn)
    order = np.resize(np.concatenate((there, there[-2:0:-1])), count)
    return images[order]


def deviation(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the median distance of points [..., 4], as a share of theirs from the origin."""
    off = np.linalg.norm(prediction[..., :3] - truth[..., :3], axis=-1)
    return float(np.median(off / np.linalg.norm(truth[..., :3], axis=-1)))


def build_timed(checks: Checks, network: str, layout: str, device: torch.device,
                images: np.ndarray) -> Timed:
    """Build a layout and run its first steps."""
    cuda = device.type == 'cuda'
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    timed = Timed(checks.build(network, layout, device), 0)
    for image in images[:FIRST_STEPS]:
        timed.run(image, timed=False)
    if cuda:
        timed.peak = torch.cuda.max_memory_allocated() - before
    return timed


def run_in_turn(layouts: Sequence[Timed], images: np.ndarray, length: Length) -> None:
    """Give each image to each layout in turn; the first one is what the others deviate from."""
    for index, image in enumerate(images[FIRST_STEPS:]):
        found = [one.run(image, index >= length.filling) for one in layouts]
        if index < length.compared:
            for one, prediction in zip(layouts, found, strict=True):
                one.deviations.append(deviation(prediction, found[0]))


def compare_layouts(checks: Checks, network: str, size: tuple[int, int], layouts: Sequence[str],
                    device: torch.device, length: Length) -> Mapping[str, Mapping[str, float]]:
    """Return the figures of each layout of a network, the plain one first."""
    images = walk(*size, FIRST_STEPS + length.filling + length.timed, DIFFERENT_IMAGES)
    runs = {layout: build_timed(checks, network, layout, device, images) for layout in layouts}
    run_in_turn(list(runs.values()), images, length)
    rates = machine_rates(device, QUICK_SIDE if length.quick else None)
    floors = checks.floor_sec(network, layouts, length.filling + length.timed // 2, device, rates)
    plain = np.array(next(iter(runs.values())).both)
    return {layout: _figures(run, plain, floors[layout]) for layout, run in runs.items()}


def _figures(run: Timed, plain: np.ndarray, floor: float) -> dict[str, float]:
    both = np.array(run.both)
    low, middle, high = (1e3 * float(value) for value in np.percentile(both, (10, 50, 90)))
    read = 1e3 * run.variant.read_sec(READ_TOKENS)
    return {
        'frame_ms': middle, 'p10_ms': low, 'p90_ms': high,
        'final_only_ms': 1e3 * float(np.median(run.final)),
        'times_plain': float(np.median(plain / both)),
        'floor_ms': 1e3 * floor, 'times_floor': middle / (1e3 * floor),
        'peak_MiB': round(run.peak / MEBI), 'read_4000_ms': read, 'read_share': read / middle,
        'deviation': float(np.median(run.deviations)), 'deviation_last': run.deviations[-1]}
