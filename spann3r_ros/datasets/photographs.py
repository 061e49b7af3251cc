# SPDX-License-Identifier: Apache-2.0
"""Photographs of one camera with known poses."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Distortion, Intrinsics

DISTORTION = ('k1', 'k2', 'p1', 'p2', 'k3')
# Tolerance of orthonormal rows in a rotation, as poses are written with few digits.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Photographs:
    """Image files of one camera, in order, and its poses `world_from_camera` [n, 4, 4]."""

    paths: tuple[Path, ...]
    intrinsics: Intrinsics
    poses: np.ndarray


def read_photographs(folder: Path, cameras: Path) -> Photographs:
    """Read the photographs of a folder that have poses, and the camera; ValueError if bad."""
    content = json.loads(cameras.read_text())
    try:
        intrinsics = read_intrinsics(content)
        names = tuple(folder / item['image'] for item in content['frames'])
        poses = [np.array(item['camera_to_world'], float) for item in content['frames']]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{cameras}: expected width, height, fx, fy, cx, cy and frames, each '
                         f'with image and camera_to_world; {error!r}') from error
    if len(names) < 3:
        raise ValueError(f'{cameras}: expected three frames or more, got {len(names)}')
    for name, pose in zip(names, poses, strict=True):
        if not is_rigid(pose):
            raise ValueError(f'{cameras}: expected camera_to_world of {name.name} to be a '
                             f'rotation and a translation, 4x4, got {pose.tolist()}')
    return Photographs(names, intrinsics, np.stack(poses))


def read_intrinsics(content: dict[str, Any]) -> Intrinsics:
    """Return the intrinsics in a file's content; missing distortion coefficients are 0."""
    coefficients = tuple(float(content.get(name, 0.0)) for name in DISTORTION)
    distortion = Distortion('plumb_bob', coefficients) if any(coefficients) else None
    return Intrinsics(*(float(content[name]) for name in ('fx', 'fy', 'cx', 'cy')),
                      width=int(content['width']), height=int(content['height']),
                      distortion=distortion)


def is_rigid(pose: np.ndarray) -> bool:
    """Return whether a matrix is a rotation and a translation, finite, [4, 4]."""
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        return False
    rotation = pose[:3, :3]
    return bool(np.allclose(rotation @ rotation.T, np.eye(3), atol=ROUNDING)
                and np.linalg.det(rotation) > 0.0
                and np.array_equal(pose[3], [0.0, 0.0, 0.0, 1.0]))
