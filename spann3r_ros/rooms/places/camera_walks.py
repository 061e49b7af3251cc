# SPDX-License-Identifier: Apache-2.0
"""Random walks of a camera through a place: handheld, forward, sideways, around things."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .place import Place

CLEARANCE = 0.3  # metres
# Furniture this much lower than the camera does not stop it.
OVERHEAD = 0.15
TRIES = 12
# Means of the fastest walks at full motion, metres and degrees a frame; some frames have 1.4 times
# as much.
WIDEST_STEP, WIDEST_TURN_DEG = 0.35, 25.0
# The height at which every place has free space.
USUAL_HEIGHT = 1.4
KINDS = ('wander', 'forward', 'sideways', 'around', 'turn')
SHARES = (0.3, 0.25, 0.15, 0.2, 0.1)


@dataclass(frozen=True)
class CameraWalk:
    """Camera centres [F, 3] and headings yaw, pitch and roll [F, 3] in radians.

    Yaw is to the left from world x, pitch upwards, roll about the optical axis.
    """

    origin: np.ndarray
    heading: np.ndarray


def draw_walk(place: Place, frames: int, motion: float, rng: np.random.Generator) -> CameraWalk:
    """Draw a walk that keeps away from walls and furniture; `motion` scales its steps.

    Up to 8 frames the length does not change the steps; in longer walks they are shorter.
    """
    height = _height(rng, place.size[2])
    if FreeSpace(place, height).spots(rng).size == 0:
        height = USUAL_HEIGHT
    free = FreeSpace(place, height)
    pace = motion * min(1.0, 8.0 / frames) ** 0.5
    kind = rng.choice(KINDS, p=SHARES)
    draw = {'wander': _wander, 'forward': _forward, 'sideways': _sideways, 'around': _around,
            'turn': _turn}[kind]
    for _ in range(TRIES):
        flat, yaw, pitch = draw(frames, pace, rng, free)
        if free.holds(flat):
            break
        pace *= 0.8
    else:
        flat, yaw, pitch = _turn(frames, pace, rng, free)
        flat = np.broadcast_to(flat[:1], flat.shape)
    bob = 0.05 * _smooth(frames, rng) + 0.008 * rng.normal(size=frames)
    shake = np.radians(0.6) * rng.normal(size=(frames, 3))
    roll = np.radians(rng.uniform(-4, 4)) + np.radians(2.5) * _smooth(frames, rng)
    origin = np.column_stack((flat, np.clip(height + bob * motion, 0.15, place.size[2] - 0.15)))
    return CameraWalk(origin, np.stack((yaw, pitch, roll), 1) + shake * min(1.0, motion))


class FreeSpace:
    """Where a camera at a height may be."""

    def __init__(self, place: Place, height: float) -> None:
        self._size, self._middle = place.size[:2], place.size / 2
        self._things = place.obstacles
        self._obstacles = [item for item in place.obstacles
                           if item.low[2] - OVERHEAD < height < item.high[2] + OVERHEAD]

    def holds(self, flat: np.ndarray) -> bool:
        """Return whether all positions [F, 2] are free."""
        return bool(self.free(flat).all())

    def free(self, flat: np.ndarray) -> np.ndarray:
        """Return which positions [F, 2] are free, bool [F]."""
        good = ((flat > CLEARANCE) & (flat < self._size - CLEARANCE)).all(1)
        for item in self._obstacles:
            good &= ~((flat > item.low[:2] - CLEARANCE)
                      & (flat < item.high[:2] + CLEARANCE)).all(1)
        return good

    def spots(self, rng: np.random.Generator) -> np.ndarray:
        """Return free positions [n, 2], of 256 in the room."""
        spots = self._size * rng.uniform(0.0, 1.0, (256, 2))
        return spots[self.free(spots)]

    def spot(self, rng: np.random.Generator) -> np.ndarray:
        """Return a free position [2] of a place that has some."""
        while not len(found := self.spots(rng)):
            pass
        return found[0]

    def target(self, rng: np.random.Generator) -> np.ndarray:
        """Return the middle [3] of a thing in the place, or that of the place without any."""
        if not self._things:
            return self._middle
        item = self._things[rng.integers(len(self._things))]
        return (item.low + item.high) / 2

    def opening(self, spot: np.ndarray, rng: np.random.Generator) -> float:
        """Return a heading, in most cases towards the middle of the room."""
        towards = self._size / 2 - spot
        away = rng.normal() * 0.8 if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
        return float(np.arctan2(towards[1], towards[0]) + away)


Path = tuple[np.ndarray, np.ndarray, np.ndarray]  # positions [F, 2], yaw [F], pitch [F]


def _wander(frames: int, pace: float, rng: np.random.Generator, free: FreeSpace) -> Path:
    spot = free.spot(rng)
    look = _course(frames, pace, rng, free.opening(spot, rng))
    return _walked(spot, _course(frames, pace, rng), pace, rng), look, _pitch(frames, rng)


def _forward(frames: int, pace: float, rng: np.random.Generator, free: FreeSpace) -> Path:
    spot = free.spot(rng)
    course = _course(frames, 0.4 * pace, rng, free.opening(spot, rng))
    look = course + np.radians(12) * _smooth(frames, rng)
    return _walked(spot, course, pace, rng), look, _pitch(frames, rng)


def _sideways(frames: int, pace: float, rng: np.random.Generator, free: FreeSpace) -> Path:
    course = _course(frames, 0.2 * pace, rng)
    look = course + rng.choice((-1, 1)) * np.radians(rng.uniform(60, 120))
    return (_walked(free.spot(rng), course, pace, rng),
            look + np.radians(8) * _smooth(frames, rng), _pitch(frames, rng))


def _around(frames: int, pace: float, rng: np.random.Generator, free: FreeSpace) -> Path:
    target = free.target(rng)
    spot = free.spot(rng)
    offset = spot - target[:2]
    radius = np.linalg.norm(offset) * (1 + 0.15 * pace * _smooth(frames, rng))
    step = rng.choice((-1, 1)) * rng.uniform(0.2, 1.0) * pace * min(
        np.radians(WIDEST_TURN_DEG), WIDEST_STEP / max(float(radius.min()), 0.3))
    angle = np.arctan2(offset[1], offset[0]) + step * np.arange(frames)
    flat = target[:2] + radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), 1)
    yaw = angle + np.pi + np.radians(6) * _smooth(frames, rng)
    return flat, yaw, np.full(frames, np.radians(rng.uniform(-25, 0)))


def _turn(frames: int, pace: float, rng: np.random.Generator, free: FreeSpace) -> Path:
    step = rng.choice((-1, 1)) * np.radians(rng.uniform(2.0, WIDEST_TURN_DEG)) * pace
    yaw = rng.uniform(0, 2 * np.pi) + step * np.arange(frames)
    spot = free.spot(rng)
    reach = rng.uniform(0.0, 0.25)
    arc = reach * np.stack((np.cos(yaw) - np.cos(yaw[0]), np.sin(yaw) - np.sin(yaw[0])), 1)
    return spot + arc, yaw, _pitch(frames, rng)


def _height(rng: np.random.Generator, ceiling: float) -> float:
    low, high = (0.25, 0.8) if rng.random() < 0.25 else (1.0, 1.8)
    return float(min(rng.uniform(low, high), ceiling - 0.4))


def _course(frames: int, pace: float, rng: np.random.Generator,
            start: float | None = None) -> np.ndarray:
    """Return headings [F] that change smoothly, by at most the widest turn a frame."""
    first = rng.uniform(0, 2 * np.pi) if start is None else start
    mean = rng.uniform(-0.6, 0.6)
    rate = mean + (1 - abs(mean)) * _smooth(frames, rng)
    return first + np.cumsum(np.radians(WIDEST_TURN_DEG) * pace * rate)


def _walked(start: np.ndarray, course: np.ndarray, pace: float,
            rng: np.random.Generator) -> np.ndarray:
    """Return positions [F, 2] along headings, with a speed that varies."""
    speed = np.exp(rng.uniform(np.log(0.06), 0.0)) * WIDEST_STEP * pace
    steps = speed * (1 + 0.4 * _smooth(len(course), rng))
    moves = steps[:, None] * np.stack((np.cos(course), np.sin(course)), 1)
    moves[0] = 0.0
    return start + np.cumsum(moves, 0)


def _pitch(frames: int, rng: np.random.Generator) -> np.ndarray:
    return np.radians(rng.uniform(-35, 12)) + np.radians(6) * _smooth(frames, rng)


def _smooth(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random signal [F] in [-1, 1]."""
    rate, phase = rng.uniform(0.1, 0.9, (2, 1)), rng.uniform(0, 7, (2, 1))
    return np.sin(rate * np.arange(frames) + phase).mean(0)
