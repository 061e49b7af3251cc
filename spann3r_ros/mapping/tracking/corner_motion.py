# SPDX-License-Identifier: Apache-2.0
"""The motion of the camera between two images, from tracked corners of known depth.

Corners of a keyframe get the depth of the keyframe on the rays of their pixels. Their tracks to a
later image give that image's pose by PnP (`pnp`). The depth of a doubtful keyframe first gets the
scale of the corners that reached it, which have their depth from the keyframes before.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of
from spann3r_ros.mapping.storage.saved_values import read_covariance, read_rigid, read_stamp

from .corner_tracks import (
    MIN_TRACKS,
    CornerPath,
    Tracks,
    at_pixels,
    find_corners,
    rays,
    to_gray,
)
from .pnp import PoseError, fit_pose

# Largest residual of a tracked corner that is an inlier, as a share of the image width.
MAX_TRACK_RESIDUAL = 0.01
# Corners on one object have nearly the same error: so many count as one measurement.
TRACKS_PER_MEASUREMENT = 10
# A doubtful depth is not used if its scale is off by more than this factor. The scale of several
# doubtful keyframes in a row drifts, since each gets it from the one before.
MAX_SCALE = 2.0


@dataclass(frozen=True)
class Motion:
    """The motion of a camera from a first image to a second one.

    `first_from_second` [4, 4] is the second camera's pose in the first one's frame, in units of
    the fragment. `covariance` [6, 6] is that of its error in position and in rotation (radians,
    about the second camera), along the axes of the first camera. `inliers` is the number of
    corners that agree with it.
    """

    first_from_second: np.ndarray
    covariance: np.ndarray
    inliers: int


@dataclass(frozen=True)
class _Corners:
    """Corners at `pixels` [n, 2] of a gray image, and their depths [n] in its camera."""

    gray: np.ndarray
    pixels: np.ndarray
    depths: np.ndarray


class CornerMotion:
    """Tracks corners from the last keyframe to later images.

    `motion_to` is for keyframes, `passing_motion` for the frames between them.
    """

    def __init__(self, config: PoseConfig) -> None:
        self._config = config
        self._corners: _Corners | None = None
        # The way of the corners through the images since, and the stamp of the newest of these.
        self._path: CornerPath | None = None
        self._path_stamp_ns: int | None = None
        # The stamp of the last image that corners were tracked to, and the result.
        self._tracked: tuple[int, Motion | None, _Corners | None] | None = None

    def configure(self, config: PoseConfig) -> None:
        """Use other thresholds from the next image on."""
        self._config = config

    def follow(self, image: np.ndarray, depth: np.ndarray, confidence: np.ndarray) -> None:
        """Track corners of this keyframe from now on.

        `image` is uint8 RGB [h, w, 3], `depth` [h, w] is in units of the fragment and may be NaN.
        """
        self.stop()
        if self._config.track_corners:
            self._begin(self._find(to_gray(image), depth, confidence))

    def carry(self, stamp_ns: int, depth: np.ndarray, confidence: np.ndarray) -> float:
        """Go on from a keyframe whose depth is doubtful; return the scale that its depth needs.

        The scale makes its depth agree with the corners that reached its image in the last call
        of `motion_to`, if that had its stamp. If too few of them have a depth, they are tracked
        further and the scale is one. If none reached it, or if the scale is not credible, no
        corners are tracked.
        """
        tracked = self._tracked
        self.stop()
        if tracked is None or tracked[0] != stamp_ns or tracked[2] is None:
            return 1.0
        reached = tracked[2]
        with np.errstate(divide='ignore', invalid='ignore'):
            ratios = reached.depths / at_pixels(depth, reached.pixels)
        ratios = ratios[np.isfinite(ratios) & (ratios > 0.0)]
        if len(ratios) < MIN_TRACKS:
            self._begin(reached)
            return 1.0
        scale = float(np.median(ratios))
        if abs(np.log(scale)) > np.log(MAX_SCALE):
            return 1.0
        self._begin(self._find(reached.gray, scale * depth, confidence))
        return scale

    def _find(self, gray: np.ndarray, depth: np.ndarray, confidence: np.ndarray) -> _Corners:
        pixels = find_corners(gray, np.isfinite(depth)).reshape(-1, 2)
        distances = at_pixels(depth, pixels)
        good = (distances > 0.0) & (at_pixels(confidence, pixels) > self._config.min_confidence)
        return _Corners(gray, pixels[good], distances[good])

    def rescale(self, scale: float) -> None:
        """Multiply the depths of the corners, because the unit of the fragment is another one."""
        self._tracked = None
        if self._corners is not None:
            self._corners = replace(self._corners, depths=self._corners.depths * scale)

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        tracked = None
        if self._tracked is not None:
            stamp_ns, motion, reached = self._tracked
            tracked = {'stamp_ns': stamp_ns,
                       'motion': None if motion is None else vars_of(motion),
                       'reached': None if reached is None else vars_of(reached)}
        path = None
        if self._path is not None and self._path_stamp_ns is not None:
            path = {**self._path.tree(), 'stamp_ns': self._path_stamp_ns}
        return {'corners': None if self._corners is None else vars_of(self._corners),
                'path': path, 'tracked': tracked}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self.stop()
        if node.has('corners'):
            self._begin(_read_corners(node.node('corners')))
            # Maps of earlier versions have no such entry.
            if node.has('path'):
                self._path.restore(node.node('path'))
                self._path_stamp_ns = read_stamp(node.node('path'))
        if node.has('tracked'):
            tracked, motion = node.node('tracked'), None
            if tracked.has('motion'):
                saved = tracked.node('motion')
                motion = Motion(read_rigid(saved, 'first_from_second'),
                                read_covariance(saved, 'covariance'), saved.integer('inliers'))
            self._tracked = (read_stamp(tracked), motion, _read_corners(
                tracked.node('reached')) if tracked.has('reached') else None)

    def stop(self) -> None:
        """Track no corners until the next `follow`."""
        self._corners = self._path = self._path_stamp_ns = self._tracked = None

    def motion_to(self, stamp_ns: int, image: np.ndarray, intrinsics: Intrinsics,
                  waypoints: Sequence[np.ndarray] = ()) -> Motion | None:
        """Return the motion from the last keyframe to an image; None without enough corners.

        `waypoints` are gray images [h, w] on the way between both. They are used if no image
        between them was passed to `passing_motion`.
        """
        if self._tracked is None or self._tracked[0] != stamp_ns:
            self._tracked = stamp_ns, *self._track(stamp_ns, image, intrinsics, waypoints)
        return self._tracked[1]

    def passing_motion(self, stamp_ns: int, image: np.ndarray,
                       intrinsics: Intrinsics) -> Motion | None:
        """Return the motion from the last keyframe to an image that is no keyframe."""
        return self._track(stamp_ns, image, intrinsics)[0]

    def _begin(self, corners: _Corners) -> None:
        self._corners = corners
        self._path, self._path_stamp_ns = CornerPath(corners.gray, corners.pixels), None

    def _track(self, stamp_ns: int, image: np.ndarray, intrinsics: Intrinsics,
               waypoints: Sequence[np.ndarray] = ()) -> tuple[Motion | None, _Corners | None]:
        if self._corners is None:
            return None, None
        first, gray = self._corners, to_gray(image)
        if self._path_stamp_ns is not None and stamp_ns < self._path_stamp_ns:
            # The corners are farther on their way than this image.
            self._begin(first)
        if self._path_stamp_ns is None:
            self._path.through(waypoints)
        tracks = self._path.follow(gray)
        self._path_stamp_ns = stamp_ns
        if len(tracks) < MIN_TRACKS:
            return None, None
        return self._solve(tracks, gray, intrinsics)

    def _solve(self, tracks: Tracks, gray: np.ndarray,
               intrinsics: Intrinsics) -> tuple[Motion | None, _Corners | None]:
        """Return the motion, and the corners that agree with it as they are in the image."""
        # Points lie on the rays of their pixels. Otherwise an error of the pointmap across the
        # ray, or a new estimate of the focal length, would be taken for motion.
        points = rays(tracks.starts, intrinsics) * self._corners.depths[tracks.corners, None]
        try:
            solution = fit_pose(points.T.copy(), tracks.ends.T.copy(), intrinsics, self._config,
                                MAX_TRACK_RESIDUAL, len(tracks) / TRACKS_PER_MEASUREMENT)
        except PoseError:
            return None, None
        points = transform_points(invert(solution.fragment_from_camera), points)
        offsets = points[:, :2] / points[:, 2:] * (intrinsics.fx, intrinsics.fy) + (
            intrinsics.cx, intrinsics.cy) - tracks.ends
        good = (points[:, 2] > 0.0) & (np.linalg.norm(offsets, axis=1)
                                       <= MAX_TRACK_RESIDUAL * intrinsics.width)
        # A track may end a little outside of the image.
        good &= ((tracks.ends >= 0.0) & (tracks.ends <= (gray.shape[1] - 1, gray.shape[0] - 1))
                 ).all(axis=1)
        return (Motion(solution.fragment_from_camera, solution.covariance, int(good.sum())),
                _Corners(gray, tracks.ends[good], points[good, 2]))


def _read_corners(node: SavedNode) -> _Corners:
    gray = node.array('gray', np.uint8, (None, None))
    depths = node.array('depths', node.dtype('depths', (np.float32, np.float64)), (None,))
    pixels = node.array('pixels', node.dtype('pixels', (np.float32, np.float64)),
                        (len(depths), 2))
    if len(depths) and not (pixels.min() >= 0.0 and depths.min() > 0.0
                            and (pixels <= (gray.shape[1] - 1, gray.shape[0] - 1)).all()):
        raise node.fault('pixels', 'corners inside the image, with depths above zero', 'others')
    return _Corners(gray, pixels, depths)
