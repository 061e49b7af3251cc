# SPDX-License-Identifier: Apache-2.0
"""A robot's way through a building, and the odometry of its wheels."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .floor_plan import FloorPlan

BLOCK = 3  # rooms of each side that are visited together
CURVE_M = 0.6  # radius
STEP_M, STEP_RAD = 0.005, np.radians(0.5)
# The most that the robot moves and turns a frame is in this relation.
METRES_PER_RAD = 0.1 / np.radians(5.0)
# The pace falls to this share of the full one between driving and turning on the spot, and changes
# by this share in a step at full pace.
LEAST_PACE, PACE_CHANGE = 0.15, 0.04


@dataclass(frozen=True)
class WheelErrors:
    """The errors of wheel odometry; shares of the way, metres and radians.

    `scale` is that of both wheels, `difference` that between them, `noise` the standard deviation
    of the way of a wheel after a metre. At `slip_at` of the way, the wheels turn `slip_m` without
    driving and the robot turns `slip_rad` unnoticed.
    """

    scale: float = 0.01
    difference: float = 0.0005
    noise: float = 0.01
    slip_at: float = 0.55
    slip_m: float = 0.15
    slip_rad: float = 0.05
    wheel_base_m: float = 0.4


@dataclass(frozen=True)
class RobotWalk:
    """A differential drive robot at n times in equal steps, x and y in metres, yaw in radians.

    `poses` [n, 3] are the true ones in the building. `odometry` [n, 3] is what the wheels give,
    from the origin on.
    """

    poses: np.ndarray
    odometry: np.ndarray


def route(plan: FloorPlan) -> np.ndarray:
    """Return the corners [k, 2] of a way through all rooms that ends where it began.

    In each block of three rooms a side it follows the corridor, enters the last northern room,
    goes through the passages to the first one, returns to the corridor, follows it again to the
    second southern room, and leaves that side by the first one. Then it goes on to the next
    block, and at the end along the corridor back to the start.
    """
    low, high = plan.spaces[0]
    middle = (low[1] + high[1]) / 2
    start = np.array((low[0] + 0.9, middle))
    way = [start]
    for first in range(0, plan.rooms, BLOCK):
        last = min(first + BLOCK, plan.rooms) - 1
        way += _visit(plan, 'north', last, first, middle)
        way += _visit(plan, 'south', min(first + 1, last), first, middle)
    way.append(start)
    corners = [way[0]]
    for point in way[1:]:
        if np.linalg.norm(point - corners[-1]) > 1e-6:
            corners.append(point)
    return np.array(corners)


def _visit(plan: FloorPlan, side: str, last: int, first: int, middle: float) -> list[np.ndarray]:
    """Return the corners of a way into a room and through those before it to the corridor."""
    enter, leave = plan.doors[side, last].middle, plan.doors[side, first].middle
    inward = 1.0 if side == 'north' else -1.0
    way = [np.array((enter[0], middle))]
    if last == first:
        return [*way, enter + (0.0, inward * 1.3), way[0]]
    passages = [plan.passages[side, number].middle for number in range(last - 1, first - 1, -1)]
    way.append(np.array((enter[0], passages[0][1])))
    # The passages of a side are at different places along y.
    for one, following in zip(passages, passages[1:], strict=False):
        way += [one - (0.9, 0.0), following + (0.9, 0.0)]
    return [*way, np.array((leave[0], passages[-1][1])), np.array((leave[0], middle))]


def drive(corners: np.ndarray, count: int, heading: float, rng: np.random.Generator,
          errors: WheelErrors | None = None) -> RobotWalk:
    """Return a drive along corners [k, 2], which it cuts by curves; it begins and ends at heading.

    A corner of more than a right angle, and one with no space for a curve, is turned on the spot.
    """
    moves = _moves(corners, heading)
    pace = _pace(moves)
    lasts = np.maximum(moves[:, 0] / METRES_PER_RAD, np.abs(moves[:, 1])) / pace
    times = np.concatenate([[0.0], np.cumsum(lasts)])
    poses = _integrate(moves, np.array([*corners[0], heading]))
    wheels = _integrate(_counted(moves, rng, errors or WheelErrors()), np.zeros(3))
    wanted = np.linspace(0.0, times[-1], count)
    return RobotWalk(*(np.stack([np.interp(wanted, times, column) for column in line.T], axis=1)
                       for line in (poses, wheels)))


def _moves(corners: np.ndarray, heading: float) -> np.ndarray:
    """Return small moves [m, 3]: metres ahead, radians to the left, 1 for turns on the spot."""
    legs = np.diff(corners, axis=0)
    lengths, yaws = np.linalg.norm(legs, axis=1), np.arctan2(legs[:, 1], legs[:, 0])
    turns = _wrapped(np.diff(yaws))
    reach = CURVE_M * np.tan(np.abs(turns) / 2)
    curved = ((np.abs(turns) < 1.7) & (np.abs(turns) > 1e-6)
              & (reach < 0.5 * np.minimum(lengths[:-1], lengths[1:])))
    cut = np.where(curved, reach, 0.0)
    found = [_turn(_wrapped(yaws[0] - heading), 0.0)]
    for index, length in enumerate(lengths):
        before = cut[index - 1] if index else 0.0
        after = cut[index] if index < len(turns) else 0.0
        found.append(_line(length - before - after))
        if index < len(turns):
            found.append(_turn(turns[index], CURVE_M if curved[index] else 0.0))
    found.append(_turn(_wrapped(heading - yaws[-1]), 0.0))
    return np.concatenate(found)


def _line(length: float) -> np.ndarray:
    steps = max(1, round(length / STEP_M))
    return np.tile([length / steps, 0.0, 0.0], (steps, 1))


def _turn(angle: float, radius: float) -> np.ndarray:
    if abs(angle) < 1e-6:
        return np.zeros((0, 3))
    steps = max(1, round(abs(angle) / STEP_RAD))
    return np.tile([radius * abs(angle) / steps, angle / steps, float(radius == 0.0)], (steps, 1))


def _pace(moves: np.ndarray) -> np.ndarray:
    """Return the pace of each move, a share of the full one, without steps."""
    pace = np.ones(len(moves))
    change = np.flatnonzero(np.diff(moves[:, 2]) != 0.0)
    pace[np.concatenate([[0], change, change + 1, [len(moves) - 1]])] = LEAST_PACE
    for order in (range(1, len(pace)), range(len(pace) - 2, -1, -1)):
        back = -1 if order.step > 0 else 1
        for index in order:
            pace[index] = min(pace[index], pace[index + back] + PACE_CHANGE)
    return pace


def _counted(moves: np.ndarray, rng: np.random.Generator, errors: WheelErrors) -> np.ndarray:
    """Return moves as the wheels count them."""
    half = 0.5 * errors.wheel_base_m
    wheels = np.stack([moves[:, 0] - half * moves[:, 1], moves[:, 0] + half * moves[:, 1]], axis=1)
    wheels *= 1.0 + errors.scale + 0.5 * errors.difference * np.array([-1.0, 1.0])
    wheels += errors.noise * np.sqrt(np.abs(wheels)) * rng.standard_normal(wheels.shape)
    counted = np.stack([wheels.mean(axis=1), (wheels[:, 1] - wheels[:, 0]) / (2 * half)], axis=1)
    driving = np.flatnonzero((moves[:, 0] > 0.0) & (moves[:, 1] == 0.0))
    if len(driving):
        slip = driving[int(errors.slip_at * (len(driving) - 1))]
        counted[slip] += errors.slip_m, errors.slip_rad
    return counted


def _integrate(moves: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the poses [m + 1, 3] before, between and after moves."""
    yaw = start[2] + np.concatenate([[0.0], np.cumsum(moves[:, 1])])
    middle = 0.5 * (yaw[:-1] + yaw[1:])
    steps = moves[:, :1] * np.stack([np.cos(middle), np.sin(middle)], axis=1)
    return np.column_stack([start[:2] + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)]),
                            yaw])


def _wrapped(angle: np.ndarray | float) -> np.ndarray | float:
    """Return angles in -pi .. pi, exactly opposite ones as pi."""
    return np.pi - np.mod(np.pi - angle, 2 * np.pi)
