# SPDX-License-Identifier: Apache-2.0
"""Whether two photographs support each other: they show the same place.

They do if they share corners (`corners.py`), which needs no network, or if the network's estimates
of both orders agree with the images as those of a loop do (`mapping/loops/verification.py`): for
places with little texture, and weights that relate two images well.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import depth_of_points
from spann3r_ros.core.network import Arrangement, Estimate
from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import DeviceMemoryError, FrameError, Pointmap, clean
from spann3r_ros.mapping.loops.pair_alignment import View
from spann3r_ros.mapping.loops.verification import MAX_CONFLICT, MAX_TURN_DEG, compare
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.tracking.focal_length import estimate_intrinsics
from spann3r_ros.mapping.tracking.measured_pose import measure_pose
from spann3r_ros.networks.arrangement import pair_confidence

from .corners import Corners, shared_corners


@dataclass(frozen=True)
class Input:
    """What a network gets of a photograph: an image uint8 [h, w, 3], and its intrinsics if known.

    `usable` bool [h, w] are the pixels that show something; None: all. A pixel p of `corners` is
    `zoom` (p - `middle`) from the middle of the image.
    """

    image: np.ndarray
    intrinsics: Intrinsics | None
    usable: np.ndarray | None
    corners: Corners
    middle: tuple[float, float]
    zoom: float


@dataclass(frozen=True)
class Support:
    """The pairs of photographs that support each other.

    `confidence` [n, n] is the network's in each order, NaN for other pairs; `strength` [n, n],
    symmetric, counts the corners they share, and one. `place` [n] numbers the sets of photographs
    that are connected; 0 is the largest. `shared` are the pixels [m, 2] of the corners in both
    photographs of a pair. `compared` counts pairs in one order.
    """

    confidence: np.ndarray
    strength: np.ndarray
    place: np.ndarray
    shared: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]
    compared: int

    def in_place(self) -> np.ndarray:
        """Return the confidence of the pairs of the largest place; NaN for others."""
        main = self.place == 0
        return np.where(np.outer(main, main), self.confidence, np.nan)


def find_support(arrangement: Arrangement, inputs: Sequence[Input],
                 pairs: Sequence[tuple[int, int]], config: MapperConfig,
                 progress: Callable[[int], object] = lambda _: None) -> Support:
    """Compare pairs of photographs in both orders; `progress` gets how many were compared."""
    count = len(inputs)
    confidence = np.full((count, count), np.nan)
    weight, shared = np.zeros((count, count)), {}
    for first, second in pairs:
        try:
            forward, backward = arrangement.pair(first, second), arrangement.pair(second, first)
        except DeviceMemoryError:
            raise
        # Points that are not finite, for one: these two do not support each other.
        except FrameError:
            progress(2)
            continue
        pixels = shared_corners(inputs[first].corners, inputs[second].corners)
        if len(pixels[0]) or _agree(forward, backward, inputs[first], inputs[second], config):
            confidence[first, second] = pair_confidence(forward)
            confidence[second, first] = pair_confidence(backward)
            weight[first, second] = 1.0 + len(pixels[0])
            shared[first, second] = pixels
        progress(2)
    return Support(confidence, weight + weight.T, _places(weight), shared, 2 * len(pairs))


def _places(weight: np.ndarray) -> np.ndarray:
    """Return the number of each photograph's place [n], the largest first."""
    number, labels = connected_components(coo_matrix(weight), directed=False)
    sizes = np.bincount(labels, minlength=number)
    shared = np.bincount(labels, weight.sum(1), number)
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(number)]
    ranked = sorted(range(number), key=lambda label: (-sizes[label], -shared[label], first[label]))
    place = np.empty(number, int)
    place[ranked] = np.arange(number)
    return place[labels]


def _agree(forward: tuple[Estimate, Estimate], backward: tuple[Estimate, Estimate],
           first: Input, second: Input, config: MapperConfig) -> bool:
    """Return whether the estimates of a pair agree with each other and with both images."""
    try:
        turns = [_turn_of(forward, first, second, config),
                 _turn_of(backward, second, first, config)]
    except FrameError:
        return False
    if any(turn is None for turn in turns):
        return False
    cosine = 0.5 * (float(np.trace(turns[0] @ turns[1])) - 1.0)
    return math.degrees(math.acos(min(max(cosine, -1.0), 1.0))) <= MAX_TURN_DEG


def _turn_of(estimates: tuple[Estimate, Estimate], first: Input, second: Input,
             config: MapperConfig) -> np.ndarray | None:
    """Return the rotation [3, 3] of the second camera; None if the images do not agree with it.

    Raises FrameError if the estimates give no pose.
    """
    limits = config.loops
    maps = [clean(one.pointmap, own.usable)
            for one, own in zip(estimates, (first, second), strict=True)]
    intrinsics = first.intrinsics or estimate_intrinsics(maps[0])
    target = Estimate(1, 0, maps[1], local=estimates[1].local,
                      reference_from_camera=estimates[1].reference_from_camera)
    pose = measure_pose(target, intrinsics, config.pose).fragment_from_camera
    views = [View(own.image, _depth(points, camera, config.voxel_map.min_confidence), intrinsics)
             for own, points, camera in zip((first, second), maps, (np.eye(4), pose),
                                            strict=True)]
    overlap = compare(*views, pose, limits)
    agrees = (overlap.support >= limits.min_support and overlap.conflict <= MAX_CONFLICT
              and overlap.residual <= limits.max_residual
              and overlap.correlation >= limits.min_correlation)
    return pose[:3, :3] if agrees else None


def _depth(pointmap: Pointmap, reference_from_camera: np.ndarray, least: float) -> np.ndarray:
    """Return the depth [h, w] of the confident points in a camera; NaN for others."""
    depth = depth_of_points(invert(reference_from_camera), pointmap.points)
    return np.where(pointmap.confidence >= least, depth, np.float32(np.nan))
