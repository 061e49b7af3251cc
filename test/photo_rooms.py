# SPDX-License-Identifier: Apache-2.0
"""Photographs of rendered rooms as JPEG files, and what the simulated network knows of them."""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.rooms.room_generator import RoomConfig, RoomGenerator
from spann3r_ros.tools.recorded_views import TrueViews

WIDTH, HEIGHT = 320, 240
# Of the simulated network's input.
SHRINK = 4
FOCAL_MM = 24
FOCAL_PX = FOCAL_MM / math.hypot(36.0, 24.0) * math.hypot(WIDTH, HEIGHT)
FAR = 1000.0  # metres between two rooms
EXACT = ('--set', 'simulated.turn_drift=0.0', '--set', 'simulated.scale_drift=0.0', '--set',
         'simulated.depth_error=0.0', '--set', 'simulated.noise=0.0')


@dataclass(frozen=True)
class RoomPhotos:
    """Images uint8 [n, h, w, 3], depths [n, h, w] in metres and poses [n, 4, 4], z up.

    The first `count` are of one room, the others of another one.
    """

    images: np.ndarray
    depths: np.ndarray
    poses: np.ndarray
    count: int

    def write(self, folder: Path, names: list[str], exif: bool = True) -> None:
        """Write the photographs under names without a suffix."""
        folder.mkdir(parents=True, exist_ok=True)
        for image, name in zip(self.images, names, strict=True):
            write_photo(folder / f'{name}.jpg', image, FOCAL_MM if exif else None)

    def views(self) -> TrueViews:
        """Return what the simulated network knows."""
        camera = Intrinsics(FOCAL_PX / SHRINK, FOCAL_PX / SHRINK, (WIDTH / SHRINK - 1) / 2,
                            (HEIGHT / SHRINK - 1) / 2, WIDTH // SHRINK, HEIGHT // SHRINK)
        half = SHRINK // 2
        near = self.depths[:, half - 1::SHRINK, half - 1::SHRINK]
        far = self.depths[:, half::SHRINK, half::SHRINK]
        return TrueViews.of(zip(self.images, 0.5 * (near + far), strict=True), self.poses, camera)


@cache
def room_photos(count: int, foreign: int = 0, step_deg: float = 9.0) -> RoomPhotos:
    """Return photographs of one room, in a turn, and of another."""
    angle = 2.0 * math.degrees(math.atan(0.5 * WIDTH / FOCAL_PX))
    generator = RoomGenerator(
        RoomConfig(size=WIDTH, height=HEIGHT, textures=24, texture_size=128,
                   field_of_view_deg=angle, field_of_view_jitter_deg=0.0), 5, 6)
    parts = []
    for number, frames in enumerate((count, foreign)):
        if frames:
            batch = generator.batch(1, frames, trajectory='turn', turn_deg_per_frame=step_deg)
            poses = (batch.world_from_first[0] @ batch.camera_poses[0]).double().numpy()
            poses[:, 0, 3] += FAR * number
            parts.append((batch.images[0].permute(0, 2, 3, 1).numpy(), batch.depth[0].numpy(),
                          poses))
    images, depths, poses = (np.concatenate(items) for items in zip(*parts, strict=True))
    return RoomPhotos(images, depths, poses, count)


def write_photo(path: Path, image: np.ndarray, focal_mm: float | None = None,
                orientation: int = 1) -> None:
    """Write an image uint8 RGB [h, w, 3] with EXIF data, in the format of the suffix."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    if focal_mm is not None:
        tags[0x8769] = {0xA405: focal_mm}
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=92, exif=tags)
