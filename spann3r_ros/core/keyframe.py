# SPDX-License-Identifier: Apache-2.0
"""A keyframe: an image with its depth and its pose in a fragment; points are derived."""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import cv2
import numpy as np

from .camera import Intrinsics
from .transforms import similarity_scale
from .types import FragmentPose, StampedPose

IDENTITY = np.eye(4)


@dataclass(frozen=True)
class Keyframe:
    """A frame admitted to the map, after cropping to the network's input size.

    `image` is uint8 [h, w, 3]. `depth`, float32 [h, w], is along the optical axis, in units of the
    fragment; it is NaN, with confidence 0, where the network gave no point in front of the camera.
    `pose` does not change once the keyframe is in the map. It is None when it could not be solved;
    it is never a placeholder such as an identity. Depth is then NaN, and `unposed_points`
    [h, w, 3] are the network's points in the fragment. `descriptor`, float32 [n], describes the
    place; None if the network gives none.
    """

    stamp_ns: int
    frame_id: str
    fragment_id: int
    image: np.ndarray
    intrinsics: Intrinsics
    depth: np.ndarray
    confidence: np.ndarray
    pose: FragmentPose | None
    unposed_points: np.ndarray | None = None
    descriptor: np.ndarray | None = None

    def __deepcopy__(self, _: dict[int, object]) -> Keyframe:
        """Return itself, which never changes."""
        return self

    def rgb(self) -> np.ndarray:
        """Return the image, as a compact keyframe does."""
        return self.image

    def pose_in(self, map_from_fragment: np.ndarray) -> StampedPose | None:
        """Return the pose in the map; None without a pose."""
        return None if self.pose is None else self.pose.in_map(map_from_fragment)

    @cached_property
    def points(self) -> np.ndarray:
        """Return the points, float32 [h, w, 3], in the fragment; NaN where they are unknown.

        Points of a keyframe with a pose lie on the rays of their pixels.
        """
        if self.pose is None:
            return self.unposed_points
        x, y = ray_planes(self.intrinsics)
        seen = cv2.merge((x * self.depth, y * self.depth, self.depth))
        return cv2.transform(seen, self.pose.fragment_from_camera[:3])

    def points_in(self, frame_from_fragment: np.ndarray) -> np.ndarray:
        """Return `points` in another frame, by a similarity [4, 4]."""
        if np.array_equal(frame_from_fragment, IDENTITY):
            return self.points
        if self.pose is None:
            return cv2.transform(self.points, frame_from_fragment[:3])
        # From the camera on: far from the origin, points of the fragment would be rounded twice.
        x, y = ray_planes(self.intrinsics)
        seen = cv2.merge((x * self.depth, y * self.depth, self.depth))
        return cv2.transform(seen, (frame_from_fragment @ self.pose.fragment_from_camera)[:3])

    def moved_to(self, fragment_id: int, fragment_from_own: np.ndarray) -> Keyframe:
        """Return the same keyframe in another fragment, by a similarity [4, 4] between both."""
        pose, points = self.pose, self.unposed_points
        if pose is not None:
            moved = pose.in_map(fragment_from_own)
            pose = FragmentPose(pose.stamp_ns, pose.frame_id, fragment_id,
                                moved.world_from_camera, moved.covariance)
        if points is not None:
            points = self.points_in(fragment_from_own)
        scale = np.float32(similarity_scale(fragment_from_own))
        return replace(self, fragment_id=fragment_id, pose=pose, depth=self.depth * scale,
                       unposed_points=points)


def depth_of_points(camera_from_points: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the depth, float32 [h, w], of points [h, w, 3] seen by a camera.

    `camera_from_points` [4, 4] is a similarity. The depth is NaN for points that are not in front
    of the camera, which no pixel can show.
    """
    row = camera_from_points[2].astype(np.float32)
    depth = points.reshape(-1, 3) @ row[:3] + row[3]
    with np.errstate(invalid='ignore'):
        depth[~(depth > 0.0)] = np.nan
    return depth.reshape(points.shape[:2])


@lru_cache(maxsize=8)
def ray_planes(intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y, float32 [h, w], of the points at depth one on the rays of all pixels."""
    columns = (np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx
    rows = (np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy
    planes = tuple(plane.astype(np.float32) for plane in np.meshgrid(columns, rows))
    for plane in planes:
        plane.setflags(write=False)
    return planes
