# SPDX-License-Identifier: Apache-2.0
"""A recorded walk through an office with true depth and poses, and a network that answers from it.

    walk = office_walk()                               # skips the test without the recording
    frames = walk.frames()                             # 373 frames at 10 Hz
    network = OfficeNetwork(walk, OfficeErrors(warp=0.05, scale_spread=2.0))

The network recognises an image by its content, so that frames may come in any order, at another
exposure, or from a JPEG image. `SPANN3R_OFFICE` names the folder of the recording: the HoloLens
sequence 000 of the sample data of deep-video-mvs, in the layout `plain`.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic import SyntheticNetwork, SyntheticOptions

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.types import Frame, FrameError, Pointmap
from spann3r_ros.datasets.plain import plain
from spann3r_ros.datasets.rgbd import read_image, unproject

PERIOD_NS = 100_000_000
CONFIDENCE = 0.9
# Height and width of the small gray images by which frames are recognised.
THUMBNAIL = (16, 24)
# Least correlation of the thumbnails of one image, before and after a JPEG or another exposure.
LEAST_CORRELATION = 0.97
# Outliers come in square patches of so many pixels, as those of a network.
PATCH = 8


@dataclass(frozen=True)
class OfficeErrors:
    """What is wrong with the answers; shares are of the depth. A sequence begins with a reset."""

    unit: float = 1.0  # metres in what the network calls one
    scale_spread: float = 1.0  # each sequence has a scale between 1 / scale_spread and this
    warp: float = 0.0  # largest smooth error of the depth, one field over the image a sequence
    noise: float = 0.0  # standard deviation of the depth of every pixel
    outliers: float = 0.0  # share of the patches with a wrong depth and full confidence
    drift: float = 0.0  # metres along x of the sequence's frame, per image of the walk
    scale_drift: float = 0.0  # share by which the scale grows, per image of the walk
    seed: int = 0


@dataclass(frozen=True)
class OfficeWalk:
    """The images of a walk, all of one camera with a centred principal point.

    `images` uint8 [n, h, w, 3]; `depths` float32 [n, h, w] in metres, 0 where unknown; `poses`
    world_from_camera [n, 4, 4], z of the camera forward.
    """

    images: np.ndarray
    depths: np.ndarray
    poses: np.ndarray
    intrinsics: Intrinsics
    thumbnails: np.ndarray  # [n, pixels], of mean 0 and length 1

    def frames(self, indices: Sequence[int] | None = None, gain: float | Sequence[float] = 1.0,
               calibrated: bool = True, first_ns: int = 1_000_000_000) -> list[Frame]:
        """Return frames at 10 Hz of some images in the order given, brighter by `gain`."""
        indices = range(len(self.images)) if indices is None else indices
        gains = np.broadcast_to(gain, len(indices))
        return [Frame(first_ns + position * PERIOD_NS, 'camera',
                      np.clip(self.images[index] * factor + 0.5, 0, 255).astype(np.uint8),
                      self.intrinsics if calibrated else None)
                for position, (index, factor) in enumerate(zip(indices, gains, strict=True))]

    def recognise(self, image: np.ndarray) -> int:
        """Return the index of an image; FrameError for one that is not of the walk."""
        scores = self.thumbnails @ _thumbnail(image)
        best = int(scores.argmax())
        if scores[best] < LEAST_CORRELATION:
            raise FrameError(f'image: expected one of the walk, got a best of {scores[best]:.2f}')
        return best

    def points(self, index: int) -> np.ndarray:
        """Return the true points float32 [h, w, 3] in the camera's frame; 0 where unknown."""
        return unproject(self.depths[index], self.intrinsics)


def office_walk(height: int = 96, stride: int = 1) -> OfficeWalk:
    """Return the walk, every `stride`-th image; the test is skipped without the recording.

    The width is one and a half times the height, which has to be a multiple of 8.
    """
    folder = os.environ.get('SPANN3R_OFFICE')
    if not folder:
        pytest.skip('SPANN3R_OFFICE: no folder of the recording given')
    return _read(Path(folder), height, stride)


@lru_cache(maxsize=2)
def _read(folder: Path, height: int, stride: int) -> OfficeWalk:
    (sequence,) = plain(folder)
    views = sequence.views[::stride]
    fx, fy, cx, cy = views[0].calibration
    # The largest view that is symmetric about the principal point and has the aspect 1.5.
    half = min(cy, cx / 1.5)
    width, step = height * 3 // 2, 2.0 * half / height
    small = Intrinsics(fx / step, fy / step, 0.5 * (width - 1), 0.5 * (height - 1), width, height)
    columns = (np.arange(width, dtype=np.float32) - small.cx) * step + cx
    rows = (np.arange(height, dtype=np.float32) - small.cy) * step + cy
    columns, rows = (np.ascontiguousarray(one, np.float32) for one in np.meshgrid(columns, rows))
    images, depths = [], []
    for view in views:
        color = cv2.cvtColor(read_image(view.color, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        smooth = cv2.GaussianBlur(color, (0, 0), 0.4 * step)
        images.append(cv2.remap(smooth, columns, rows, cv2.INTER_LINEAR))
        # Depths must not be mixed across an edge.
        depths.append(cv2.remap(sequence.read_depth(view.depth), columns, rows, cv2.INTER_NEAREST))
    for arrays in (images, depths):
        for array in arrays:
            array.setflags(write=False)
    return OfficeWalk(np.array(images), np.array(depths, np.float32),
                      np.array([view.world_from_camera for view in views]), small,
                      np.array([_thumbnail(image) for image in images]))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(gray, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)


class OfficeNetwork(SyntheticNetwork):
    """Answers `Network` calls with the true depth of the walk, spoilt as the errors say."""

    name = 'office'
    identity = 'office'

    def __init__(self, walk: OfficeWalk, errors: OfficeErrors | None = None) -> None:
        super().__init__(None, list(walk.poses), SyntheticOptions(), walk.intrinsics)
        self.walk = walk
        self.errors = errors or OfficeErrors()

    def _index_of(self, image: np.ndarray) -> int:
        return self.walk.recognise(image)

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        errors, sequence = self.errors, self._fragments
        depth = self.walk.depths[index]
        known = depth > 0.0
        # A network answers everywhere; where nothing is known it is not confident.
        depth = np.where(known, depth, np.median(depth[known]) if known.any() else 1.0)
        rng = np.random.default_rng([errors.seed, sequence])
        depth *= np.exp(errors.warp * smooth_field(rng, depth.shape))
        rng = np.random.default_rng([errors.seed, sequence, index])
        depth *= np.exp(errors.noise * rng.standard_normal(depth.shape))
        patches = [-(-side // PATCH) for side in depth.shape]
        wrong = rng.random(patches) < errors.outliers
        factors = np.where(wrong, np.exp(rng.uniform(-1.0, 1.0, patches)), 1.0)
        depth *= factors.repeat(PATCH, 0).repeat(PATCH, 1)[:depth.shape[0], :depth.shape[1]]
        pose = np.linalg.inv(self.walk.poses[origin]) @ self.walk.poses[index]
        pose[0, 3] += errors.drift * (index - origin)
        points = unproject(depth, self.walk.intrinsics) @ pose[:3, :3].T + pose[:3, 3]
        points *= (self.sequence_scale(sequence) * np.exp(errors.scale_drift * abs(index - origin))
                   / errors.unit)
        return Pointmap(points.astype(np.float32),
                        np.where(known, CONFIDENCE, 0.0).astype(np.float32))

    def sequence_scale(self, sequence: int) -> float:
        """Return the scale of a sequence, by its number from 0."""
        rng = np.random.default_rng([self.errors.seed, sequence, 1 << 20])
        return float(self.errors.scale_spread ** rng.uniform(-1.0, 1.0))


def smooth_field(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return a smooth random field [h, w] between -1 and 1 that reaches one of them."""
    coarse = rng.uniform(-1.0, 1.0, (4, 4)).astype(np.float32)
    field = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return field / np.abs(field).max()
