# SPDX-License-Identifier: Apache-2.0
"""Training sequences that are rendered on demand: procedural rooms and places."""
from __future__ import annotations

import random

import torch
from torch import Tensor

from spann3r_ros.rooms.assets.asset_pack import AssetPack
from spann3r_ros.rooms.places.place_generator import PlaceConfig, PlaceGenerator
from spann3r_ros.rooms.room_generator import RoomConfig, RoomGenerator
from spann3r_ros.rooms.textures import TextureBank
from spann3r_ros.training.schedule import Moment
from spann3r_ros.training.training_config import TrainingConfig

from .source import TrainingBatch

TRAINING_TEXTURES_SEED = 1


class RoomSource:
    """Procedural rooms; some steps have steady turns, in the others the camera wanders."""

    def __init__(self, config: TrainingConfig, seed: int, device: str) -> None:
        self._config = config
        rooms = RoomConfig(size=config.network.image_width,
                           field_of_view_deg=config.field_of_view_deg,
                           field_of_view_jitter_deg=config.field_of_view_jitter_deg,
                           partition_share=config.partition_share,
                           composite_share=config.composite_share,
                           vignetting=config.vignetting, streak=config.streak,
                           textures=config.textures)
        self._rooms = RoomGenerator(rooms, seed, TRAINING_TEXTURES_SEED, device)

    def batch(self, batch_size: int, frames: int, size: tuple[int, int], moment: Moment,
              draw: random.Random) -> TrainingBatch:
        """Return sequences of new rooms; in long ones the camera moves less, to stay inside."""
        turn = draw.choice((-1, 1)) * draw.uniform(*self._config.turn_range_deg)
        trajectory = 'turn' if draw.random() < self._config.turn_share else 'train'
        drawn = self._rooms.batch(batch_size, frames, moment.motion * min(1.0, 8 / frames) ** 0.5,
                                  trajectory, turn, image_size=size)
        return TrainingBatch(drawn.images, drawn.points,
                             torch.ones_like(drawn.depth, dtype=torch.bool))

    def state(self) -> Tensor:
        """Return the random state, uint8."""
        return self._rooms.state()

    def restore(self, state: Tensor) -> None:
        """Continue with the batches that followed a saved state."""
        self._rooms.restore(state)


class PlaceSource:
    """Furnished places."""

    def __init__(self, config: TrainingConfig, pack: AssetPack, bank: TextureBank, seed: int,
                 device: str) -> None:
        places = PlaceConfig(patterns=config.textures)
        self._places = PlaceGenerator(places, pack, seed, device, bank)

    def batch(self, batch_size: int, frames: int, size: tuple[int, int], moment: Moment,
              draw: random.Random) -> TrainingBatch:
        """Return sequences of new places."""
        drawn = self._places.batch(batch_size, frames, moment.motion, size)
        return TrainingBatch(drawn.images, drawn.points, drawn.depth > 0.0)

    def state(self) -> Tensor:
        """Return the number of sequences drawn, as uint8 [8]."""
        return self._places.state().view(1).view(torch.uint8)

    def restore(self, state: Tensor) -> None:
        """Continue with the batches that followed a saved state."""
        self._places.restore(state.clone().view(torch.int64)[0])
