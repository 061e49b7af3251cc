# SPDX-License-Identifier: Apache-2.0
"""A simulated network: it recognises the images of a recording and answers with their true depth.

The answers have errors as those of a network: an arbitrary unit for each sequence, a smooth error
of depth, noise, drift, and wrong answers for pairs of images that share nothing. Its checkpoint is
a file of `TrueViews` with the suffix `.views`. It is no part of the package's networks: a program
registers it by an entry point of its own (`write_entry_point`).
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from spann3r_ros.core.keyframe import ray_planes
from spann3r_ros.core.network import Compute, Estimate, NetworkStatus
from spann3r_ros.core.settings import check_settings, setting
from spann3r_ros.core.transforms import invert, to_rigid
from spann3r_ros.core.types import Pointmap
from spann3r_ros.networks.checkpoint_files import CheckpointFile
from spann3r_ros.networks.kind import NetworkKind

from .recorded_views import SUFFIX, TrueViews

DISTRIBUTION = 'spann3r_simulated_network'
ENTRY_POINT = f'[spann3r_ros.networks]\nsimulated = {__name__}:KIND\n'
# What a pair has in common, as a share of the second image, from which on it is understood.
LEAST_OVERLAP = 0.15
DESCRIPTOR_GRID, ORIENTATIONS = (8, 6), 8
WAVES = 3  # of the smooth error, along each side of the image


@dataclass(frozen=True)
class SimulatedSettings:
    """The errors of the simulated network."""

    unit: float = setting(0.37, 'Metres are multiplied by this', 1e-3, 1e3)
    unit_spread: float = setting(
        0.1, 'Standard deviation of the logarithm of the unit of a sequence', 0.0, 3.0)
    depth_error: float = setting(
        0.03, 'Largest smooth error of depth, as a share; it is one field a sequence', 0.0, 0.5)
    noise: float = setting(
        0.005, 'Standard deviation of the error of each depth, as a share', 0.0, 0.5)
    turn_drift: float = setting(
        0.003, 'Radians of heading that a sequence drifts in a metre', 0.0, 1.0)
    scale_drift: float = setting(
        0.002, 'Share by which the unit of a sequence grows in a metre', 0.0, 1.0)
    seed: int = setting(0, 'Seed of all errors', 0, 2**31)

    def __post_init__(self) -> None:
        check_settings(self)


class SimulatedNetwork:
    """Answers with the true depth of a recording, spoilt as the settings say; no lag."""

    name = 'simulated'
    measures_pose = False

    def __init__(self, views: TrueViews, settings: SimulatedSettings | None = None) -> None:
        self._views = views
        self._settings = settings or SimulatedSettings()
        self.identity = f'simulated {views.identity}'
        self.reset()

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return height and width of the recording's views."""
        return self._views.camera.height, self._views.camera.width

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Return the estimate of an image; FrameError for one that is not of the recording."""
        index = self._views.find(image)
        if self._first < 0:
            self._first, self._first_id, self._at = index, image_id, np.eye(4)
        else:
            self._move(index)
        self._last = index
        self._images += 1
        pointmap = self._pointmap(index, self._at, self._unit(), self._first)
        return [Estimate(image_id, self._first_id, pointmap, descriptor=describe(image))]

    def provisional(self) -> Estimate | None:
        """Return None: estimates are final at once."""
        return None

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images.

        Images that share too little are answered as if they showed nearly the same view, with a
        low confidence.
        """
        one, two = self._views.find(first), self._views.find(second)
        rng = self._rng(1, one, two)
        unit = float(np.exp(self._settings.unit_spread * rng.standard_normal())
                     * self._settings.unit)
        trust = 1.0
        if self._views.overlap(one, two) >= LEAST_OVERLAP:
            moved = invert(self._views.poses[one]) @ self._views.poses[two]
        else:
            moved = to_rigid(rng.normal(0.0, 0.1, 3), rng.normal(0.0, 0.3, 3))
            trust = 0.3
        found = [self._pointmap(one, np.eye(4), unit, one), self._pointmap(two, moved, unit, one)]
        return tuple(Estimate(number, 0, Pointmap(item.points, trust * item.confidence),
                              descriptor=describe(image))
                     for number, (item, image) in enumerate(zip(found, (first, second),
                                                                strict=True)))

    def flush(self) -> list[Estimate]:
        """Return nothing: no estimate is to come."""
        return []

    def reset(self) -> None:
        """Forget the sequence."""
        self._first = self._last = -1
        self._first_id = self._images = 0
        self._at, self._grown = np.eye(4), 0.0

    def state(self) -> dict[str, np.ndarray]:
        """Return all that lives between two steps."""
        return {'numbers': np.array([self._first, self._last, self._first_id, self._images]),
                'at': self._at.copy(), 'grown': np.array(self._grown)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        self._first, self._last, self._first_id, self._images = arrays['numbers'].tolist()
        self._at, self._grown = arrays['at'].copy(), float(arrays['grown'])

    def status(self) -> NetworkStatus:
        """Return the number of images of the sequence."""
        return NetworkStatus(tokens=self._images, threads=1)

    def _unit(self) -> float:
        """Return the unit of the sequence, as its first image draws it and its way changes it."""
        draw = self._rng(2, self._first).standard_normal()
        return float(self._settings.unit * np.exp(self._settings.unit_spread * draw + self._grown))

    def _move(self, index: int) -> None:
        """Go on to an image, with the drift of the sequence."""
        step = invert(self._views.poses[self._last]) @ self._views.poses[index]
        length = float(np.linalg.norm(step[:3, 3]))
        side = 1.0 if self._rng(3, self._first).random() < 0.5 else -1.0
        turn = to_rigid(np.array([0.0, side * self._settings.turn_drift * length, 0.0]),
                        np.zeros(3))
        step = step.copy()
        step[:3, 3] *= np.exp(self._grown)
        self._at = self._at @ step @ turn
        self._grown += side * self._settings.scale_drift * length

    def _pointmap(self, index: int, pose: np.ndarray, unit: float, first: int) -> Pointmap:
        """Return the points of an image in the frame of a sequence, in its unit."""
        x, y = ray_planes(self._views.camera)
        true = self._views.depths[index].astype(np.float32)
        rng = self._rng(4, first, index)
        depth = true * (1.0 + self._smooth_error(first)
                        + self._settings.noise * rng.standard_normal(true.shape, np.float32))
        seen = cv2.merge((x * depth, y * depth, depth))
        points = cv2.transform(seen, pose[:3]) * np.float32(unit)
        return Pointmap(points, _confidence(true))

    def _smooth_error(self, first: int) -> np.ndarray:
        """Return the smooth error of depth of a sequence, a share [h, w]."""
        height, width = self._views.camera.height, self._views.camera.width
        rng = self._rng(5, first)
        v, u = (np.linspace(0.0, np.pi, size, dtype=np.float32) for size in (height, width))
        field = sum(rng.standard_normal() * np.outer(np.cos(row * v), np.cos(column * u))
                    for row in range(WAVES) for column in range(WAVES))
        return (self._settings.depth_error * field / np.abs(field).max()).astype(np.float32)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, *key])


def describe(image: np.ndarray) -> np.ndarray:
    """Return a descriptor float32 [n] of length one of an image: colours and edges by places."""
    small = cv2.resize(image, DESCRIPTOR_GRID, interpolation=cv2.INTER_AREA).astype(np.float32)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    strength, angle = cv2.cartToPolar(across, down)
    bins = (angle * (ORIENTATIONS / np.pi)).astype(int) % ORIENTATIONS
    edges = [cv2.resize(np.where(bins == one, strength, 0.0).astype(np.float32),
                        DESCRIPTOR_GRID, interpolation=cv2.INTER_AREA)
             for one in range(ORIENTATIONS)]
    parts = [_normalised(small - small.mean()), _normalised(np.stack(edges) - np.mean(edges))]
    return _normalised(np.concatenate(parts))


def write_entry_point(folder: Path) -> Path:
    """Write a distribution that registers the network; return the folder to put on PYTHONPATH."""
    target = folder / f'{DISTRIBUTION}-1.0.dist-info'
    target.mkdir(parents=True, exist_ok=True)
    (target / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {DISTRIBUTION}\n'
                                     'Version: 1.0\n')
    (target / 'entry_points.txt').write_text(ENTRY_POINT)
    return folder


def _confidence(depth: np.ndarray) -> np.ndarray:
    """Return the confidence [h, w]: lower far away and at edges of depth."""
    steps = np.maximum(np.abs(cv2.Sobel(depth, cv2.CV_32F, 1, 0, scale=0.125)),
                       np.abs(cv2.Sobel(depth, cv2.CV_32F, 0, 1, scale=0.125)))
    edge = np.exp(-20.0 * np.maximum(steps / np.maximum(depth, 0.1) - 0.15, 0.0))
    return (0.95 * edge / (1.0 + (depth / 12.0) ** 2)).astype(np.float32)


def _normalised(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(-1).astype(np.float32)
    return flat / max(float(np.linalg.norm(flat)), 1e-9)


def _recognises(file: CheckpointFile) -> bool:
    return file.path.suffix == SUFFIX


def _open(path: Path, settings: SimulatedSettings, _: Compute) -> SimulatedNetwork:
    return SimulatedNetwork(TrueViews.load(path), settings)


KIND = NetworkKind('simulated', SimulatedSettings, _recognises, _open)
