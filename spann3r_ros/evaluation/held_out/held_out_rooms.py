# SPDX-License-Identifier: Apache-2.0
"""The held-out sequences, and baselines from statistics of training rooms."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.rooms.room_generator import RoomBatch, RoomConfig, RoomGenerator

from . import baselines

BATCH = 4
# Width by height of the camera for which a network chooses the size of its images.
ASPECT = 4 / 3
# The statistics need all points of the training rooms in memory: fewer rooms for long sequences.
LEAST_TRAINING_ROOMS, MOST_TRAINING_FRAMES = 8, 1600


@dataclass(frozen=True)
class Turn:
    """One kind of sequence: frames, and degrees of yaw a frame (0.12 rad of the ellipse per 9).

    With `motion` it is not a turn but a wandering path with tilts, as in training; `motion` scales
    its steps.
    """

    frames: int
    step_deg: float = 9.0
    motion: float | None = None

    @property
    def name(self) -> str:
        """Return the key of results and references."""
        if self.motion is not None:
            return f'{self.frames} frames wandering'
        return f'{self.frames} frames at {self.step_deg:g} deg'


# The last is two full turns: in the second one every place is seen again.
TURNS = (Turn(5), Turn(10), Turn(20), Turn(40), Turn(40, 3.0), Turn(60, 6.0), Turn(200, 1.8),
         Turn(80))
WANDERING = Turn(40, motion=0.45)


@dataclass(frozen=True)
class HeldOutConfig:
    """The settings of an evaluation; the seeds must differ from those of training.

    The rooms of a turn do not depend on the other turns. `varied` rooms have doors, seats and
    tables; their cameras have different fields of view, vignetting and motion blur.
    """

    rooms: int = 20
    turns: tuple[Turn, ...] = TURNS
    seed: int = 90_001
    textures_seed: int = 90_002
    training_rooms: int = 32
    training_seed: int = 1000
    training_textures_seed: int = 1
    query_points: int = 5000
    normal_points: int = 20_000
    varied: bool = False

    def __post_init__(self) -> None:
        for name in ('rooms', 'training_rooms', 'query_points', 'normal_points'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}: expected at least 1, got {getattr(self, name)}')
        if not self.turns or min(turn.frames for turn in self.turns) < 2:
            raise ValueError(f'turns: expected at least one of two frames, got {self.turns}')
        if self.seed == self.training_seed or self.textures_seed == self.training_textures_seed:
            raise ValueError('seed and textures_seed: expected others than in training, got '
                             f'{self.seed} and {self.textures_seed}')


@dataclass(frozen=True)
class Sequence:
    """The images and the ground truth of one room, in the first camera's optical frame.

    `images` uint8 [frames, h, w, 3], `points` [frames, h, w, 3], `poses` first-camera-from-camera
    [frames, 4, 4]; `mean_side` is the mean of the room's two horizontal sides in metres.
    """

    images: np.ndarray
    points: np.ndarray
    poses: np.ndarray
    intrinsics: Intrinsics
    mean_side: float


def unseen_rooms(config: HeldOutConfig, size: tuple[int, int]) -> RoomGenerator:
    """Return the source of unseen rooms with unseen textures; `size` is (height, width)."""
    return RoomGenerator(room_config(config, size), config.seed, config.textures_seed)


def familiar_rooms(config: HeldOutConfig, size: tuple[int, int]) -> RoomGenerator:
    """Return a source of rooms of the same kind with the textures of training."""
    return RoomGenerator(room_config(config, size), config.training_seed,
                         config.training_textures_seed)


def room_config(config: HeldOutConfig, size: tuple[int, int]) -> RoomConfig:
    """Return the configuration of rooms and cameras."""
    height, width = size
    if not config.varied:
        return RoomConfig(size=width, height=height)
    return RoomConfig(size=width, height=height, field_of_view_jitter_deg=12.0,
                      partition_share=0.5, composite_share=0.5, vignetting=0.4, streak=0.02)


def draw_sequences(generator: RoomGenerator, rooms: int, turn: Turn) -> Iterator[Sequence]:
    """Yield `rooms` sequences, rendered a few at a time."""
    for start in range(0, rooms, BATCH):
        count = min(BATCH, rooms - start)
        if turn.motion is None:
            batch = generator.batch(count, turn.frames, trajectory='turn',
                                    turn_deg_per_frame=turn.step_deg)
        else:
            batch = generator.batch(count, turn.frames, turn.motion)
        yield from (to_sequence(batch, i) for i in range(count))


def to_sequence(batch: RoomBatch, index: int) -> Sequence:
    """Return one room of a batch as numpy."""
    def array(tensor: Tensor) -> np.ndarray:
        return tensor[index].cpu().numpy()

    images = np.ascontiguousarray(array(batch.images).transpose(0, 2, 3, 1))
    matrix = array(batch.intrinsics).astype(float)
    camera = Intrinsics(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2],
                        width=images.shape[2], height=images.shape[1])
    return Sequence(images, array(batch.points), array(batch.camera_poses).astype(float), camera,
                    float(array(batch.room_size)[:2].mean()))


class TrivialPredictions:
    """Predictions that use no image of the room: means and medians over training rooms."""

    def __init__(self, generator: RoomGenerator, rooms: int, turn: Turn) -> None:
        rooms = min(rooms, max(LEAST_TRAINING_ROOMS, MOST_TRAINING_FRAMES // turn.frames))
        sequences = list(draw_sequences(generator, rooms, turn))
        points = np.stack([sequence.points for sequence in sequences])  # [rooms, f, h, w, 3]
        depths = np.stack([depth_images(sequence) for sequence in sequences])
        self._frames = turn.frames
        self._mean_depth = float(depths.mean())
        self._median_depth = np.median(depths, axis=(0, 1))
        self._median_pointmaps = baselines.median_pointmaps(points)

    def of(self, sequence: Sequence) -> dict[str, np.ndarray]:
        """Return the pointmaps [frames, h, w, 3] of each baseline; the last uses true poses."""
        camera = sequence.intrinsics
        rays = baselines.pixel_rays(camera.matrix, camera.height, camera.width)
        return {
            'plane': baselines.plane_pointmaps(self._mean_depth, self._frames, rays),
            'median': self._median_pointmaps,
            'posed_depth': baselines.posed_depth_pointmaps(self._median_depth, sequence.poses,
                                                           rays),
        }


def depth_images(sequence: Sequence) -> np.ndarray:
    """Return the depth [frames, h, w] along each camera's own optical axis."""
    camera_from_first = np.linalg.inv(sequence.poses)
    return np.einsum('fi,fhwi->fhw', camera_from_first[:, 2, :3],
                     sequence.points) + camera_from_first[:, None, None, 2, 3]
