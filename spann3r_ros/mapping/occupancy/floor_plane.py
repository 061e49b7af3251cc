# SPDX-License-Identifier: Apache-2.0
"""The floor of a map: the lowest large surface in the occupancy evidence, nearly level."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spann3r_ros.mapping.layers.voxel_store import KEY_BITS

from .occupancy_store import EDGE, EvidenceBlocks, column_bits, unpack

# The floor is sought among the lowest occupied cells of all columns, in windows of this height.
WINDOW_M = 0.25
# A window has the floor if it has this area, this share of all columns, and this share of the
# fullest window.
LEAST_AREA_M2, LEAST_SHARE, LEAST_PEAK = 0.5, 0.1, 0.3
# Cells within this distance of the plane fit to it, in the first rounds and in the last.
DISTANCES_M = (0.2, 0.15, 0.1, 0.1, 0.075, 0.075)
# By a byte: its lowest bit that is set.
LOWEST_BIT = np.array([np.inf, *(float((n & -n).bit_length() - 1) for n in range(1, 256))],
                      np.float32)
MAX_SLOPE = float(np.tan(np.radians(5.0)))


@dataclass(frozen=True)
class Floor:
    """The plane z = height + slope_x x + slope_y y of the map, in metres."""

    height: float
    slope_x: float
    slope_y: float

    def height_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return z of the floor at points of the map."""
        return self.height + self.slope_x * x + self.slope_y * y


def find_floor(blocks: EvidenceBlocks, occupied_evidence: int,
               free_evidence: int) -> Floor | None:
    """Return the floor of evidence in the map, whose units are metres; None if it is not seen.

    Cells with the one evidence or more are occupied, with the other or less free.
    """
    x, y, z = _floor_cells(blocks, occupied_evidence, free_evidence)
    size = blocks.cell_size
    if len(z) * size**2 < LEAST_AREA_M2:
        return None
    steps = np.round(z / size - 0.5).astype(np.int64)
    counts = np.bincount(steps - steps.min())
    window = max(1, round(WINDOW_M / size))
    sums = np.convolve(counts, np.ones(window, np.int64))[:len(counts) + window - 1]
    least = max(LEAST_AREA_M2 / size**2, LEAST_SHARE * len(z), LEAST_PEAK * sums.max())
    full = np.flatnonzero(sums >= least)
    if not len(full):
        return None
    # The fullest one of the lowest windows that overlap.
    best = full[0] + int(np.argmax(sums[full[0]:full[0] + window]))
    top = (steps.min() + best + 1) * size
    plane = np.array([top - 0.5 * window * size, 0.0, 0.0])
    for distance in DISTANCES_M:
        near = np.abs(z - plane[0] - plane[1] * x - plane[2] * y) < max(distance, 1.5 * size)
        if near.sum() < 3:
            break
        plane = _fitted(x[near], y[near], z[near])
    return Floor(*map(float, plane))


def _fitted(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return height and slopes [3] of the plane through points, level if it would be too steep."""
    # About the middle, so that height and slopes are independent.
    middle = x.mean(), y.mean(), z.mean()
    centred = np.stack([x - middle[0], y - middle[1]])
    spread = centred @ centred.T / len(x)
    slopes = np.zeros(2)
    # A strip is level across, where it has no slope to measure.
    if np.linalg.eigvalsh(spread)[0] > 0.0:
        slopes = np.linalg.solve(spread + 1e-4 * np.eye(2),
                                 centred @ (z - middle[2]) / len(x))
    steepness = float(np.linalg.norm(slopes))
    if steepness > MAX_SLOPE:
        slopes *= MAX_SLOPE / steepness
    return np.array([middle[2] - slopes @ middle[:2], *slopes])


def _floor_cells(blocks: EvidenceBlocks, occupied_evidence: int,
                 free_evidence: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y, z [n] of the centres of cells that may be floor.

    They are the lowest occupied cells of the columns whose free cells all lie above. Below a
    ceiling and below a table top there is free space; in a wall there is none.
    """
    if not len(blocks):
        return (np.zeros(0),) * 3
    place = unpack(blocks.keys)
    starts = np.flatnonzero(np.diff(blocks.keys >> KEY_BITS, prepend=-1))
    lowest = [_lowest(column_bits(cells), place, starts) for cells in (
        blocks.evidence >= occupied_evidence, blocks.evidence <= free_evidence)]
    rows, columns = np.nonzero((lowest[0] < lowest[1]) & np.isfinite(lowest[1]))
    first = place[starts[rows]]
    return tuple((cells + 0.5) * blocks.cell_size for cells in (
        first[:, 0] * EDGE + columns // EDGE, first[:, 1] * EDGE + columns % EDGE,
        lowest[0][rows, columns]))


def _lowest(bits: np.ndarray, place: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the levels [columns of blocks, 64] of the lowest cells of bits [n, 64], or inf."""
    return np.minimum.reduceat(place[:, 2:] * EDGE + LOWEST_BIT[bits], starts, axis=0)
