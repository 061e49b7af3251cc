# SPDX-License-Identifier: Apache-2.0
"""How far apart a map's surfaces of one wall are, compared with the plan of the building."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spann3r_ros.rooms.buildings.floor_plan import WALL, FloorPlan

# A wall is judged in patches of this length, between these heights, up to this far into the room.
PATCH_M, HEIGHTS_M, REACH_M = 0.3, (0.3, 2.2), 0.5
BIN_M = 0.02
LEAST_POINTS = 12
# A surface has at least this share of the points of the largest one of its patch.
LEAST_SHARE = 0.25


@dataclass(frozen=True)
class WallDoubling:
    """Metres between the outermost surfaces of one side of a wall; 0 where there is one.

    `median` and `most` (95 %) are over all points of judged patches, `doubled` is the share of
    points in patches with more than the `limit`. All are NaN without a judged patch.
    """

    median: float
    most: float
    doubled: float
    limit: float
    patches: int


def wall_doubling(points: np.ndarray, plan: FloorPlan, limit: float = 0.05) -> WallDoubling:
    """Return how far the walls of a cloud [n, 3], in metres in the world of the plan, are doubled.

    Each side of a wall is divided into patches. In a patch, surfaces are peaks of the histogram of
    the distances from the wall, from its middle to `REACH_M` into the room; they are `limit` or
    more apart. A copy of the wall's other side that is moved by more than half its thickness
    counts as well. Patches at doors and furniture are left out.
    """
    points = points[(points[:, 2] > HEIGHTS_M[0]) & (points[:, 2] < HEIGHTS_M[1])]
    found, weights = [], []
    for space in plan.spaces:
        margin = REACH_M + WALL
        near = points[((points[:, :2] > space[0] - margin)
                       & (points[:, :2] < space[1] + margin)).all(axis=1), :2]
        for axis in (0, 1):
            for side in (0, 1):
                _judge(near, plan, space, axis, side, limit, found, weights)
    if not found:
        return WallDoubling(np.nan, np.nan, np.nan, limit, 0)
    widths, counts = np.array(found), np.array(weights)
    order = np.argsort(widths)
    share = np.cumsum(counts[order]) / counts.sum()
    median, most = (float(widths[order][np.searchsorted(share, level)]) for level in (0.5, 0.95))
    return WallDoubling(median, most, float(counts[widths > limit].sum() / counts.sum()), limit,
                        len(found))


def _judge(points: np.ndarray, plan: FloorPlan, space: np.ndarray, axis: int, side: int,
           limit: float, found: list[float], weights: list[int]) -> None:
    """Judge the wall of a space at its low (0) or high (1) end of an axis; append the results."""
    along = 1 - axis
    inward = 1.0 if side == 0 else -1.0
    offset = inward * (points[:, axis] - space[side, axis])
    low, high = space[0, along] + REACH_M, space[1, along] - REACH_M
    chosen = (offset > -WALL / 2) & (offset < REACH_M)
    offset, place = offset[chosen], points[chosen, along]
    edges = np.arange(low, high - PATCH_M, PATCH_M)
    for start, stop in zip(edges, edges + PATCH_M, strict=True):
        if _is_cluttered(plan, space, axis, side, start, stop):
            continue
        own = offset[(place > start) & (place < stop)]
        if len(own) >= LEAST_POINTS:
            found.append(_spread(own, limit))
            weights.append(len(own))


def _spread(offsets: np.ndarray, limit: float) -> float:
    """Return the distance between the outermost peaks of a histogram of offsets."""
    bins = np.arange(-WALL / 2, REACH_M + BIN_M, BIN_M)
    counts = np.histogram(offsets, bins)[0].astype(float)
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], 'same')
    reach = max(1, round(limit / BIN_M))
    padded = np.pad(smooth, reach, constant_values=-1.0)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    peaks = np.flatnonzero((smooth == around) & (smooth >= LEAST_SHARE * smooth.max()))
    return float((peaks[-1] - peaks[0]) * BIN_M) if peaks[-1] - peaks[0] > reach else 0.0


def _is_cluttered(plan: FloorPlan, space: np.ndarray, axis: int, side: int, start: float,
                  stop: float) -> bool:
    """Return whether a door or furniture is at a patch of a wall."""
    low, high = np.empty(2), np.empty(2)
    low[1 - axis], high[1 - axis] = start - 0.1, stop + 0.1
    ends = ((space[0, axis] - WALL, space[0, axis] + REACH_M + 0.1) if side == 0
            else (space[1, axis] - REACH_M - 0.1, space[1, axis] + WALL))
    low[axis], high[axis] = ends
    doors = [one.floor() for one in (*plan.doors.values(), *plan.passages.values())]
    boxes = [*doors, *plan.furniture[:, :, :2]]
    return any((low < box[1]).all() and (high > box[0]).all() for box in boxes)
