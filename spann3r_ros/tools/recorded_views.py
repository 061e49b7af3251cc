# SPDX-License-Identifier: Apache-2.0
"""The true views of a recording, found by an image: what the simulated network knows."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import ray_planes
from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import FrameError

SUFFIX = '.views'
THUMBNAIL = (24, 18)  # width, height
# Mean difference of gray levels from which on an image is none of the recording.
MOST_DIFFERENCE = 12.0
PROBE = 8  # every how many pixels overlap is judged


@dataclass(frozen=True)
class TrueViews:
    """What the network knows of n images: thumbnails and true depth at its own size.

    `thumbnails` uint8 [n, 18, 24] are gray, `depths` float16 [n, h, w] in metres along the optical
    axis of `camera`, `poses` [n, 4, 4] the true `world_from_camera`.
    """

    thumbnails: np.ndarray
    depths: np.ndarray
    poses: np.ndarray
    camera: Intrinsics

    @classmethod
    def of(cls, views: Iterable[tuple[np.ndarray, np.ndarray]], poses: np.ndarray,
           camera: Intrinsics) -> TrueViews:
        """Return the views of images uint8 [h, w, 3] with depths [h, w] and poses [n, 4, 4]."""
        depths = np.empty((len(poses), camera.height, camera.width), np.float16)
        thumbnails = np.empty((len(poses), *THUMBNAIL[::-1]), np.uint8)
        for index, (image, depth) in enumerate(views):
            thumbnails[index], depths[index] = thumbnail(image), depth
        return cls(thumbnails, depths, poses, camera)

    def save(self, path: Path) -> None:
        """Write a file that `load` reads; its suffix has to be `.views`."""
        camera = self.camera
        with path.open('wb') as file:
            np.savez(file, thumbnails=self.thumbnails, depths=self.depths, poses=self.poses,
                     camera=np.array([camera.fx, camera.fy, camera.cx, camera.cy]))

    @classmethod
    def load(cls, path: Path) -> TrueViews:
        """Read a file; ValueError for another content."""
        try:
            with np.load(path, allow_pickle=False) as file:
                thumbnails, depths, poses, camera = (
                    file[name] for name in ('thumbnails', 'depths', 'poses', 'camera'))
            n, height, width = depths.shape
            if (thumbnails.shape, poses.shape, camera.shape) != (
                    (n, *THUMBNAIL[::-1]), (n, 4, 4), (4,)) or not n:
                raise ValueError('arrays of other shapes')
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f'checkpoint: expected the views of a recording in {path}: '
                             f'{error}') from error
        return cls(thumbnails, depths, poses, Intrinsics(*camera.tolist(), width, height))

    @cached_property
    def identity(self) -> str:
        """Return a text that differs between recordings."""
        digest = hashlib.sha256(self.poses.tobytes())
        digest.update(self.thumbnails.tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the thumbnails as float32 [n, pixels] and their squared lengths [n]."""
        flat = self.thumbnails.reshape(len(self.thumbnails), -1).astype(np.float32)
        return flat, np.einsum('ni,ni->n', flat, flat)

    def find(self, image: np.ndarray) -> int:
        """Return the number of the most similar image; FrameError if none is similar enough."""
        flat, squares = self._table
        wanted = thumbnail(image).reshape(-1).astype(np.float32)
        found = int(np.argmin(squares - 2.0 * (flat @ wanted)))
        difference = float(np.abs(flat[found] - wanted).mean())
        if difference > MOST_DIFFERENCE:
            raise FrameError('image: expected one of the recording, the most similar one differs '
                             f'by {difference:.0f} gray levels')
        return found

    def overlap(self, first: int, second: int) -> float:
        """Return the share of an image's pixels whose points another image sees."""
        x, y = (plane[::PROBE, ::PROBE] for plane in ray_planes(self.camera))
        depth = self.depths[second, ::PROBE, ::PROBE].astype(float)
        points = np.stack([x * depth, y * depth, depth], axis=-1).reshape(-1, 3)
        moved = invert(self.poses[first]) @ self.poses[second]
        points = points @ moved[:3, :3].T + moved[:3, 3]
        z = points[:, 2]
        ahead = np.maximum(z, 1e-3)
        camera = self.camera
        column = np.round(camera.fx * points[:, 0] / ahead + camera.cx)
        row = np.round(camera.fy * points[:, 1] / ahead + camera.cy)
        inside = ((z > 0.1) & (column >= 0) & (column < camera.width) & (row >= 0)
                  & (row < camera.height))
        seen = self.depths[first, row[inside].astype(int), column[inside].astype(int)]
        return float((np.abs(z[inside] - seen) < 0.05 + 0.05 * z[inside]).sum() / len(z))


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a small gray copy, uint8 [18, 24], of an image uint8 [h, w, 3]."""
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), THUMBNAIL,
                      interpolation=cv2.INTER_AREA)
