# SPDX-License-Identifier: Apache-2.0
"""Photographs with known poses: what a network makes of them, and how well the path is told."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from spann3r_ros.core.network import Reconstructor
from spann3r_ros.core.types import Frame, FrameError, Pointmap, clean
from spann3r_ros.core.views import Preprocessed, preprocess
from spann3r_ros.datasets.photographs import Photographs
from spann3r_ros.evaluation.held_out.room_scores import stream
from spann3r_ros.evaluation.measures.solved_poses import follow_camera
from spann3r_ros.evaluation.measures.trajectories import PathErrors

from .measures import trajectories


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
