# SPDX-License-Identifier: Apache-2.0
"""Mapping of photographs with known poses, and the errors of the path."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from spann3r_ros.core.network import Network
from spann3r_ros.core.types import Frame
from spann3r_ros.datasets.photographs import Photographs
from spann3r_ros.evaluation.measures.trajectories import PathErrors
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.pipeline.runner import run_frames

from .measures import trajectories
from .recorded_runs import EVERY_FRAME, MappedFrame, in_first_camera, poses_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoRun:
    """The result of mapping photographs, in the first camera's optical frame.

    `keyframes` [m] are of the photographs that were mapped; their stamps are the photographs'
    numbers. `coverage` is the share of a photograph in the network's input; `truth` [n, 4, 4] are
    the true poses of all photographs.
    """

    keyframes: list[MappedFrame]
    coverage: float
    truth: np.ndarray

    @property
    def poses(self) -> tuple[np.ndarray, list[int]]:
        """Return the solved poses [k, 4, 4] and the numbers of their photographs."""
        return poses_of(self.keyframes)


@dataclass(frozen=True)
class PhotoScores:
    """Errors of the solved path; `rotation_deg` is the median angle with nothing aligned.

    `path` are errors after one similarity, in the truth's unit, with steps between consecutive
    solved frames; `still` is the trajectory error of a camera that never moves. All but the counts
    are None if fewer than three frames were solved.
    """

    frames: int
    solved: int
    rotation_deg: float | None = None
    path: PathErrors | None = None
    still: float | None = None


def read_frames(photographs: Photographs) -> Iterator[Frame]:
    """Yield the photographs as frames, stamped by their numbers; ValueError names a bad file."""
    for index, path in enumerate(photographs.paths):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise ValueError(f'{path}: expected an image')
        camera = photographs.intrinsics
        if image.shape[:2] != (camera.height, camera.width):
            raise ValueError(f'{path}: expected {camera.width}x{camera.height} pixels as in '
                             f'the intrinsics, got {image.shape[1]}x{image.shape[0]}')
        yield Frame(index, 'camera', image[..., ::-1], camera)


def run_photographs(network: Network, photographs: Photographs, letterbox: bool = False,
                    observe: Callable[[], object] = lambda: None) -> PhotoRun:
    """Map photographs as the node does, every one as a keyframe; `observe` is called after each.

    ValueError names a file that cannot be used.
    """
    mapper = Mapper(network, MapperConfig(
        keyframes=EVERY_FRAME, field_of_view='letterbox' if letterbox else 'crop',
        resampling='exact', live_pose=False))
    result = run_frames(mapper, read_frames(photographs), observe)
    for frame, error in result.failures:
        path = photographs.paths[frame.stamp_ns]
        logger.warning('%s: %s', path.name, error)
    return PhotoRun(in_first_camera(result.updates), mapper.status().coverage,
                    np.linalg.inv(photographs.poses[0]) @ photographs.poses)


def score_photographs(run: PhotoRun) -> PhotoScores:
    """Return the errors of a run; ValueError if the true camera does not move."""
    found, frames = run.poses
    scores = PhotoScores(len(run.truth), len(frames))
    if scores.solved < 3:
        return scores
    truth = run.truth[frames]
    centres = truth[:, :3, 3]
    return replace(
        scores, rotation_deg=float(np.median(trajectories.rotation_errors_deg(found, truth))),
        path=trajectories.path_errors(found, truth),
        still=trajectories.root_mean_square(centres - centres.mean(axis=0)))
