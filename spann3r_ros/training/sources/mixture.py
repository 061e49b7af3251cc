# SPDX-License-Identifier: Apache-2.0
"""The sources of a run, and sequences of several sources in one batch."""
from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from spann3r_ros.rooms.assets.asset_pack import read_pack
from spann3r_ros.rooms.places.place_generator import load_bank
from spann3r_ros.training.schedule import Moment
from spann3r_ros.training.training_config import TrainingConfig

from .recordings import RecordedSource, Recordings
from .rendered import PlaceSource, RoomSource
from .source import Source, TrainingBatch


def open_sources(config: TrainingConfig, shards: Iterable[int], device: str,
                 pack: Path | None = None) -> dict[int, Source]:
    """Return the source of each given shard; ValueError or DatasetError for bad data.

    `pack` is the file of the places' assets, which a run with places needs.
    """
    seeds = {shard: 1000 + config.seed + 7919 * shard for shard in shards}
    rooms, places, data = config.source_shares
    recorded = Recordings(config) if data else None
    if places:
        if pack is None:
            raise ValueError('pack: expected a pack of assets for a run with places')
        assets = read_pack(pack)
        bank = load_bank(assets, config.textures, device)
    sources: dict[int, Source] = {}
    for shard, seed in seeds.items():
        parts: list[tuple[float, Source]] = []
        if rooms:
            parts.append((rooms, RoomSource(config, seed, device)))
        if places:
            parts.append((places, PlaceSource(config, assets, bank, seed, device)))
        if recorded is not None:
            parts.append((data, RecordedSource(recorded, config, seed, device)))
        sources[shard] = parts[0][1] if len(parts) == 1 else Mixture(parts)
    return sources


class Mixture:
    """Each sequence of a batch is of one of several sources, chosen by their shares."""

    def __init__(self, parts: list[tuple[float, Source]]) -> None:
        self._shares = [share for share, _ in parts]
        self._sources = [source for _, source in parts]
        self._state_sizes = [len(source.state()) for source in self._sources]

    def batch(self, batch_size: int, frames: int, size: tuple[int, int], moment: Moment,
              draw: random.Random) -> TrainingBatch:
        """Return new sequences, those of one source after those of another."""
        chosen = draw.choices(range(len(self._sources)), self._shares, k=batch_size)
        parts = [source.batch(chosen.count(index), frames, size, moment, draw)
                 for index, source in enumerate(self._sources) if index in chosen]
        return TrainingBatch(*(torch.cat([getattr(part, item.name) for part in parts])
                               for item in fields(TrainingBatch)))

    def state(self) -> Tensor:
        """Return the random states of all sources, uint8."""
        return torch.cat([source.state() for source in self._sources])

    def restore(self, state: Tensor) -> None:
        """Continue with the batches that followed a saved state."""
        for source, part in zip(self._sources, state.split(self._state_sizes), strict=True):
            source.restore(part.clone())
