# SPDX-License-Identifier: Apache-2.0
"""Training sequences of recorded folders of posed RGB-D."""
from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.datasets.folders import LAYOUTS
from spann3r_ros.datasets.layouts import split_range
from spann3r_ros.datasets.rgbd import PosedView, RgbdSequence
from spann3r_ros.rooms.draw import Draw
from spann3r_ros.training.schedule import Moment
from spann3r_ros.training.training_config import TrainingConfig

from .source import TrainingBatch

# Colour jitter of every view: factors within 1 +- these, hue as a share of the full circle.
BRIGHTNESS = CONTRAST = SATURATION = 0.5
HUE = 0.1


def recorded_sequences(data: tuple[str, ...]) -> Iterator[RgbdSequence]:
    """Yield the sequences of all 'LAYOUT:FOLDER'; of 7-Scenes those of the training split.

    Of 'LAYOUT:FOLDER:FIRST-LAST' only the frames FIRST to LAST of each sequence. Raises ValueError
    for an unknown layout, DatasetError for a folder that does not have it or lacks such frames.
    """
    for item in data:
        layout, _, rest = item.partition(':')
        folder, frames = split_range(rest)
        if layout not in LAYOUTS or not folder:
            raise ValueError(f'data: expected LAYOUT:FOLDER with a layout of {sorted(LAYOUTS)}, '
                             f'or LAYOUT:FOLDER:FIRST-LAST, got {item!r}')
        arguments = ('Train',) if layout == '7scenes' else ()
        for sequence in LAYOUTS[layout](Path(folder), *arguments):
            yield sequence.within(*frames) if frames else sequence


class Recordings:
    """Recorded sequences and the threads that read them, for all sources of a process.

    ValueError for recordings that are shorter than the run's longest sequence.
    """

    def __init__(self, config: TrainingConfig) -> None:
        longest = max(length for stage in config.stages for length in stage.lengths)
        self.sequences = list(recorded_sequences(config.data))
        for sequence in self.sequences:
            if len(sequence.views) < longest:
                raise ValueError(f'data: expected {longest} views or more in every sequence, '
                                 f'{sequence.name} has {len(sequence.views)}')
        self.readers = ThreadPoolExecutor(os.cpu_count())


class RecordedSource:
    """Recorded sequences; consecutive frames are up to a gap of views apart, in either direction.

    The gap grows and falls again as the run proceeds (paper, Eq. 14-15).
    """

    def __init__(self, recorded: Recordings, config: TrainingConfig, seed: int,
                 device: str) -> None:
        self._sequences = recorded.sequences
        self._readers = recorded.readers
        self._gap = config.frame_gap
        self._jitter = config.color_jitter
        self._draw = Draw(seed)
        self._device = device

    def batch(self, batch_size: int, frames: int, size: tuple[int, int], moment: Moment,
              draw: random.Random) -> TrainingBatch:
        """Return sequences of recordings drawn uniformly; DatasetError for a broken file."""
        low, high = self._gap
        gap = int(low + moment.reach * (high - low))
        chosen = [self._choose(frames, gap) for _ in range(batch_size)]
        requests = [(sequence, index, self._draw.uniform(-1.0, 1.0, 4).numpy())
                    for sequence, indices in chosen for index in indices]
        views = list(self._readers.map(lambda item: self._read(*item, size), requests))
        images, points, valid = [], [], []
        for number, (sequence, _) in enumerate(chosen):
            part = views[number * frames:(number + 1) * frames]
            first_from_world = invert(part[0].world_from_camera)
            images.append(np.stack([view.image.transpose(2, 0, 1) for view in part]))
            points.append(np.stack([
                transform_points(first_from_world @ view.world_from_camera, view.points)
                for view in part]) / np.float32(sequence.unit_per_metre))
            valid.append(np.stack([view.valid for view in part]))
        return TrainingBatch(*(torch.from_numpy(np.stack(item)).to(self._device)
                               for item in (images, points, valid)))

    def state(self) -> Tensor:
        """Return the random state, uint8."""
        return self._draw.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Continue with the batches that followed a saved state."""
        self._draw.generator.set_state(state)

    def _choose(self, frames: int, gap: int) -> tuple[RgbdSequence, list[int]]:
        sequence = self._sequences[self._integer(len(self._sequences))]
        count = len(sequence.views)
        starts = max(count // frames, count - gap * (frames - 1), 1)
        indices = [self._integer(min(starts, count - frames + 1))]
        for left in range(frames - 1, 0, -1):
            farthest = min(gap, count - left - indices[-1])
            indices.append(indices[-1] + 1 + self._integer(farthest))
        return sequence, indices[::-1] if self._integer(2) else indices

    def _integer(self, bound: int) -> int:
        return int(self._draw.integers(bound, 1))

    def _read(self, sequence: RgbdSequence, index: int, shifts: np.ndarray,
              size: tuple[int, int]) -> PosedView:
        view = sequence.load(index, size)
        if not self._jitter:
            return view
        return PosedView(jitter_color(view.image, shifts), view.points, view.valid,
                         view.intrinsics, view.world_from_camera)


def jitter_color(image: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of uint8 RGB by shifts [4] in [-1, 1]."""
    brightness, contrast, saturation = 1.0 + shifts[:3] * (BRIGHTNESS, CONTRAST, SATURATION)
    values = image.astype(np.float32) / 255.0 * np.float32(brightness)
    grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)
    values = grey.mean() + contrast * (values - grey.mean())
    grey = cv2.cvtColor(values.astype(np.float32), cv2.COLOR_RGB2GRAY)[..., None]
    values = np.clip(grey + saturation * (values - grey), 0.0, 1.0).astype(np.float32)
    hsv = cv2.cvtColor(values, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = np.mod(hsv[..., 0] + 360.0 * HUE * shifts[3], 360.0)
    return np.round(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255.0).astype(np.uint8)
