# SPDX-License-Identifier: Apache-2.0
"""The settings of a training run: network, data, stages, losses, optimiser."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spann3r_ros.networks.registry import trainable_kind

if TYPE_CHECKING:
    from spann3r_ros.networks.trainable import NetworkSizes, Trainable


@dataclass(frozen=True)
class Stage:
    """A part of the run, `share` of its steps, with its mix of sequences.

    Each step draws one of `lengths`, in frames, and fills about `frames_per_step` frames with
    sequences of this length. `motion` (start, end) scales the range of the camera's motion; in
    sequences longer than 8 frames it is reduced, so that the camera stays in the room.
    """

    share: float
    lengths: tuple[int, ...]
    motion: tuple[float, float] = (1.0, 1.0)


CURRICULUM = (
    Stage(0.15, (3,), (0.25, 0.6)),
    Stage(0.25, (5,), (0.5, 0.6)),
    Stage(0.20, (5, 8), (0.6, 0.6)),
    Stage(0.40, (5, 10, 24), (0.6, 0.6)),
)

LOSSES = ('rooms', 'paper', 'released')
ROOMS_LOSSES_ONLY = ('alpha', 'attention_weight', 'placed_share', 'shown_share', 'shown_slip',
                     'plain_weight')
OPTIMISERS = ('muon', 'adamw')
DECAYS = ('linear', 'cosine')
PRECISIONS = ('fp32', 'tf32', 'bf16')


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a run; equal settings and seeds give equal curves on equal hardware.

    `network_name` is a registered kind of network, empty: the first that can be trained. `network`
    are its sizes, None: the default ones of that kind. `frozen` parts of it (`Trainable.PARTS`)
    keep their weights.

    `losses` are those of the bundled model ('rooms'), of the paper ('paper'), or of the paper's
    code ('released'), which mix the sequences of a shard. `data` are folders as 'LAYOUT:FOLDER'. A
    share `data_share` of the sequences is from them if there are any, a share `places_share` is of
    furnished places, the rest of procedural rooms. Each step has images of one of the network's
    sizes. `frame_gap` is the widest step between two views
    of a recording, in views, at the start and in the middle of a run. Every step is the mean over
    `shards`, which are drawn separately and distributed evenly over the processes: the curve does
    not depend on the number of processes.

    The fields from `field_of_view_deg` to `textures` are those of `RoomConfig`; places have as
    many procedural textures as rooms. A share `turn_share` of the steps has steady level turns of
    `turn_range_deg` a frame, to either side; in the other steps the camera wanders. Both are of
    rooms.

    The losses 'rooms' use the following. The confidence C that minimises the loss of a pixel with
    the relative error e is alpha / e; the network then returns (C - 1) / C = 1 - e / alpha. A
    share `placed_share` of the sequences stores its first frame as if its camera stood anywhere in
    the map: the network must take the frame of its predictions from the memory, as in the later
    part of a long sequence. A share `shown_share` stores true points in place of predicted ones:
    the network learns to localise in a correct map. `shown_slip` adds errors to these stored
    points that grow along the sequence; the expected predictions stay the true ones: the network
    learns to localise in a map that has drifted. With `plain_weight` above 0 the error itself is
    minimised, with this weight, and the confidence no longer weights it: large errors count in
    full.
    """

    network_name: str = ''
    network: NetworkSizes | None = None
    losses: str = 'rooms'
    data: tuple[str, ...] = ()
    data_share: float = 1.0
    places_share: float = 0.0
    frame_gap: tuple[int, int] = (5, 30)
    color_jitter: bool = True
    stages: tuple[Stage, ...] = CURRICULUM
    steps: int = 2600
    shards: int = 1
    frames_per_step: int = 72
    warmup_steps: int = 60
    decay_share: float = 0.45
    optimiser: str = 'muon'
    decay: str = 'linear'
    muon_lr: float = 2e-3
    adam_lr: float = 1e-3
    weight_decay: float = 0.01
    frozen: tuple[str, ...] = ()
    precision: str = 'fp32'
    attention_dropout: float = 0.0
    clip_norm: float = 1.0
    average_decay: float = 0.998
    alpha: float = 0.5
    attention_weight: float = 0.1
    field_of_view_deg: float = 80.0
    field_of_view_jitter_deg: float = 0.0
    partition_share: float = 0.0
    composite_share: float = 0.0
    vignetting: float = 0.0
    streak: float = 0.0
    textures: int = 384
    turn_share: float = 0.3
    turn_range_deg: tuple[float, float] = (2.0, 14.0)
    placed_share: float = 0.0
    shown_share: float = 0.0
    shown_slip: float = 0.0
    plain_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'network_name', trainable_kind(self.network_name).name)
        if self.network is None:
            object.__setattr__(self, 'network', self.trainable.default_sizes())
        for name, choices in (('losses', LOSSES), ('optimiser', OPTIMISERS), ('decay', DECAYS),
                              ('precision', PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f'{name}: expected one of {choices}, '
                                 f'got {getattr(self, name)!r}')
        for name in ('data_share', 'places_share'):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f'{name}: expected 0 to 1, got {getattr(self, name)}')
        if self.source_shares[0] < 0.0:
            raise ValueError('data_share and places_share: expected shares of at most 1 together, '
                             f'got {self.data_share} and {self.places_share}')
        for name in ('steps', 'shards', 'frames_per_step', 'warmup_steps'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}: expected at least 1, got {getattr(self, name)}')
        if not self.stages or min(length for stage in self.stages for length in stage.lengths) < 2:
            raise ValueError(f'stages: expected sequences of two frames or more, '
                             f'got {self.stages}')
        if not 1 <= self.frame_gap[0] <= self.frame_gap[1]:
            raise ValueError(f'frame_gap: expected two numbers of views, 1 or more and not '
                             f'falling, got {self.frame_gap}')
        together = min(length for stage in self.stages for length in stage.lengths) * self.shards
        if self.losses == 'released' and self.frames_per_step < 2 * together:
            raise ValueError(f"shards: expected two sequences or more in each with the losses "
                             f"'released', which equal the paper's for one, got {self.shards} "
                             f'with {self.frames_per_step} frames a step')
        for item in fields(self) if self.losses != 'rooms' else ():
            value = getattr(self, item.name)
            if item.name in ROOMS_LOSSES_ONLY and value != item.default:
                raise ValueError(f"{item.name}: expected {item.default}, as only the losses "
                                 f"'rooms' use it, with the losses {self.losses!r}, got {value}")

    @property
    def source_shares(self) -> tuple[float, float, float]:
        """Return the shares of rooms, places and recordings among the sequences."""
        data = self.data_share if self.data else 0.0
        # Shares such as 0.9 and 0.1 leave nothing, though not exactly in floating point.
        return round(1.0 - data - self.places_share, 9), self.places_share, data

    @property
    def trainable(self) -> Trainable:
        """Return what trains this kind of network; importing it is heavy."""
        return trainable_kind(self.network_name).training()

    def lasting(self, steps: int) -> TrainingConfig:
        """Return the same run with another number of steps; the warm-up keeps its share."""
        return replace(self, steps=steps,
                       warmup_steps=max(1, round(self.warmup_steps * steps / self.steps)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), 'network': self.network.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Build from plain values, others by default; ValueError for an unknown name."""
        unknown = sorted(set(values) - {item.name for item in fields(cls)})
        if unknown:
            raise ValueError(f'training config: expected known fields only, got {unknown}')
        made = {name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()}
        if 'network' in made:
            kind = trainable_kind(made.get('network_name', ''))
            made['network'] = kind.training().sizes_from_dict(made['network'])
        if 'stages' in made:
            made['stages'] = tuple(
                Stage(item['share'], tuple(item['lengths']),
                      tuple(item.get('motion', (1.0, 1.0)))) for item in made['stages'])
        return cls(**made)

    @classmethod
    def read(cls, path: Path) -> TrainingConfig:
        """Read a JSON file of fields; ValueError names the file and the bad field."""
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{path}: {error}') from error
