# SPDX-License-Identifier: Apache-2.0
"""Photographs with known poses: what a network makes of them, and how well the path is told."""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spann3r_ros.evaluation import trajectories
from spann3r_ros.evaluation.held_out import stream
from spann3r_ros.evaluation.solved_poses import follow_camera
from spann3r_ros.evaluation.trajectories import PathErrors
from spann3r_ros.mapping.preprocess import Preprocessed, preprocess
from spann3r_ros.mapping.types import (
    Distortion,
    Frame,
    FrameError,
    Intrinsics,
    Pointmap,
    Reconstructor,
    clean,
)

DISTORTION = ('k1', 'k2', 'p1', 'p2', 'k3')
# How far a rotation's rows may be from orthonormal: poses are written with few digits.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Photographs:
    """Files that one camera took, in order, and its poses `world_from_camera` [n, 4, 4]."""

    paths: tuple[Path, ...]
    intrinsics: Intrinsics
    poses: np.ndarray


@dataclass(frozen=True)
class PhotoRun:
    """What a network made of photographs, in the first camera's optical frame.

    `images` uint8 [n, h, w, 3] and `coverage`, the share of a photograph they show, are what it
    saw; `found` [m, 4, 4] are the poses solved, of `frames` [m]; `truth` [n, 4, 4] the true ones.
    """

    images: np.ndarray
    coverage: float
    pointmaps: list[Pointmap]
    found: np.ndarray
    frames: list[int]
    truth: np.ndarray


@dataclass(frozen=True)
class PhotoScores:
    """Errors of the solved path; `rotation_deg` is the median angle with nothing aligned.

    `path` holds errors after one similarity, in the truth's unit, steps between consecutive solved
    frames; `still` is the trajectory error of a camera that never moves. All but the counts are
    None where fewer than three frames could be solved.
    """

    frames: int
    solved: int
    rotation_deg: float | None = None
    path: PathErrors | None = None
    still: float | None = None


def read_photographs(folder: Path, cameras: Path) -> Photographs:
    """Read which photographs of a folder have poses, and the camera; ValueError if that fails."""
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
    """Return the camera that a file's numbers describe; what is not said of a lens is 0."""
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


def load(photographs: Photographs, size: tuple[int, int], letterbox: bool) -> list[Preprocessed]:
    """Return the network's inputs [size]; ValueError names a file that cannot be used."""
    inputs = []
    for index, path in enumerate(photographs.paths):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise ValueError(f'{path}: expected an image')
        frame = Frame(index, '', image[..., ::-1], photographs.intrinsics)
        try:
            inputs.append(preprocess(frame, size, letterbox))
        except FrameError as error:
            raise FrameError(f'{path}: {error}') from error
    return inputs


def run_photographs(reconstructor: Reconstructor, photographs: Photographs,
                    letterbox: bool = False,
                    observe: Callable[[], object] = lambda: None) -> PhotoRun:
    """Stream photographs through a reconstructor and follow the camera as the mapper does.

    `observe` is called after each photograph.
    """
    inputs = load(photographs, reconstructor.input_size, letterbox)
    images = np.stack([item.image for item in inputs])
    pointmaps = [clean(pointmap, item.usable) for pointmap, item in zip(
        stream(reconstructor, images, observe), inputs, strict=True)]
    found, frames = follow_camera(images, pointmaps, inputs[0].intrinsics)
    return PhotoRun(images, inputs[0].coverage, pointmaps, found, frames,
                    np.linalg.inv(photographs.poses[0]) @ photographs.poses)


def score_photographs(run: PhotoRun) -> PhotoScores:
    """Return the errors of a run; ValueError if the true camera stands still."""
    scores = PhotoScores(len(run.pointmaps), len(run.frames))
    if scores.solved < 3:
        return scores
    truth = run.truth[run.frames]
    centres = truth[:, :3, 3]
    return replace(
        scores, rotation_deg=float(np.median(trajectories.rotation_errors_deg(run.found, truth))),
        path=trajectories.path_errors(run.found, truth),
        still=trajectories.root_mean_square(centres - centres.mean(axis=0)))
