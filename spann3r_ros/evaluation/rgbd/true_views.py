# SPDX-License-Identifier: Apache-2.0
"""A video with true depth and poses: frames as the node gets them, and true views."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import transform_points
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import preprocess
from spann3r_ros.datasets.plain import check_aspect, scale_calibration
from spann3r_ros.datasets.rgbd import DatasetError, RgbdSequence, read_image, unproject
from spann3r_ros.mapping.layers.voxel_map import AUTOMATIC_SHARE, VoxelCloud, VoxelMap
from spann3r_ros.mapping.mapper_config import MapperConfig, VoxelMapConfig

FRAME_ID = 'camera'
# Bound of the fused true cloud; beyond, the voxels that were not seen for longest are removed.
MOST_VOXELS = 3_000_000


@dataclass(frozen=True)
class Video:
    """A sequence of one camera and the stamps of its views [n], in nanoseconds."""

    sequence: RgbdSequence
    stamps_ns: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.stamps_ns)

    @cached_property
    def intrinsics(self) -> Intrinsics:
        """Return the intrinsics of the colour images."""
        height, width = self._read_color(0).shape[:2]
        first = self.sequence.views[0]
        shape = self.sequence.read_depth(first.depth).shape
        check_aspect(first.depth, shape, (height, width))
        return Intrinsics(*scale_calibration(first.calibration, shape, (height, width)),
                          width=width, height=height)

    def frame(self, index: int, calibrated: bool) -> Frame:
        """Read a view as a frame, with intrinsics if `calibrated`; DatasetError for a bad file."""
        rgb, camera = self._read_color(index), self.intrinsics
        if rgb.shape[:2] != (camera.height, camera.width):
            raise DatasetError(f'{self.sequence.views[index].color}: expected {camera.width}x'
                               f'{camera.height} pixels as in the first image, '
                               f'got {rgb.shape[1]}x{rgb.shape[0]}')
        return Frame(self.stamps_ns[index], FRAME_ID, rgb, camera if calibrated else None)

    def frames(self, calibrated: bool) -> Iterator[Frame]:
        """Yield all frames."""
        return (self.frame(index, calibrated) for index in range(len(self)))

    def depth(self, index: int) -> np.ndarray:
        """Read the depth [height, width] of the pixels of a colour image; 0 is unknown."""
        files, camera = self.sequence.views[index], self.intrinsics
        depth = self.sequence.read_depth(files.depth)
        size = (camera.height, camera.width)
        check_aspect(files.depth, depth.shape, size)
        if depth.shape == size:
            return depth
        return cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

    def _read_color(self, index: int) -> np.ndarray:
        path = self.sequence.views[index].color
        return cv2.cvtColor(read_image(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class TrueViews:
    """The n views of a video at the network's input size.

    `images` uint8 [n, h, w, 3]; `depth` float32 [n, h, w] in metres, 0: unknown; `poses`
    [n, 4, 4] are world from camera.
    """

    images: np.ndarray
    depth: np.ndarray
    intrinsics: Intrinsics
    poses: np.ndarray

    @property
    def mean_depth(self) -> float:
        """Return the mean of the known depths."""
        return float(self.depth[self.depth > 0.0].mean(dtype=np.float64))

    def world_points(self, index: int) -> np.ndarray:
        """Return the points [h, w, 3] of a view in the world; wrong where depth is unknown."""
        return transform_points(self.poses[index], unproject(self.depth[index], self.intrinsics))

    def fuse(self, observe: Callable[[], object] = lambda: None) -> VoxelCloud:
        """Return the points of all views by voxels of 1 % of the median depth.

        `observe` is called after each view.
        """
        side = AUTOMATIC_SHARE * float(np.median(self.depth[self.depth > 0.0]))
        voxels = VoxelMap(VoxelMapConfig(voxel_size=side, max_voxels=MOST_VOXELS,
                                         min_confidence=0.0))
        store = voxels.new_store()
        for index, depth in enumerate(self.depth):
            known = depth > 0.0
            voxels.merge(store, [store], self.world_points(index)[known],
                         self.images[index][known], np.ones(int(known.sum()), np.float32),
                         depth[known])
            observe()
        return voxels.snapshot([(store, np.eye(4))]).cloud()


def open_video(sequence: RgbdSequence, rate: float | None, default_rate: float | None) -> Video:
    """Return a sequence with stamps: those of the recording, or `rate` images per second.

    Without a rate and without times in the recording it is `default_rate`. DatasetError for stamps
    that do not increase.
    """
    if rate is not None and not (np.isfinite(rate) and rate > 0.0):
        raise ValueError(f'rate: expected images per second above 0, got {rate}')
    seconds = [view.stamp_sec for view in sequence.views]
    if rate is not None or None in seconds:
        seconds = [view.position / (rate or default_rate) for view in sequence.views]
    stamps = tuple(round(stamp * 1e9) for stamp in seconds)
    if any(after <= before for before, after in pairwise(stamps)):
        raise DatasetError(f'{sequence.name}: expected stamps that increase')
    return Video(sequence, stamps)


def load_views(video: Video, size: tuple[int, int], calibrated: bool,
               observe: Callable[[], object] = lambda: None) -> TrueViews:
    """Read all views as the mapper fits the images to `size` (height, width).

    Without calibration the window of the mapper is symmetric about the middle of the image. Depth
    is sampled from the nearest pixel. `observe` is called after each view. DatasetError if no view
    has depth.
    """
    config = MapperConfig()
    images, depths, camera = [], [], video.intrinsics
    for index in range(len(video)):
        fitted = preprocess(video.frame(index, calibrated), size,
                            config.field_of_view == 'letterbox', config.resampling == 'exact')
        images.append(fitted.image)
        depths.append(fitted.window.sample(video.depth(index), size))
        observe()
    depth = np.stack(depths)
    if not (depth > 0.0).any():
        raise DatasetError(f'{video.sequence.name}: expected depth, got none in any view')
    return TrueViews(np.stack(images), depth, fitted.window.follow(camera, size),
                     np.stack([view.world_from_camera for view in video.sequence.views]))
