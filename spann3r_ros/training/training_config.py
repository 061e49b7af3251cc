# SPDX-License-Identifier: Apache-2.0
"""What a training run consists of: network, data, stages, losses, optimiser."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from spann3r_ros.networks.spann3r.config import Spann3RConfig


@dataclass(frozen=True)
class Stage:
    """A share of the run with its mix of sequences.

    Each step draws one of `lengths` (frames per sequence) and fills about `frames_per_step`
    frames with sequences of it; `motion` (start, end) scales the camera's motion range, and
    sequences longer than 8 frames move less, so that they stay in the room.
    """

    share: float
    lengths: tuple[int, ...]
    motion: tuple[float, float] = (1.0, 1.0)


def small_network() -> Spann3RConfig:
    """Return the sizes of the bundled network."""
    return Spann3RConfig(
        image_height=96, image_width=96, patch_size=12, encoder_width=192, encoder_depth=4,
        encoder_heads=4, decoder_width=192, decoder_depth=3, decoder_heads=4, value_depth=2,
        value_heads=4, head='linear', learned_positions=True)


CURRICULUM = (
    Stage(0.15, (3,), (0.25, 0.6)),
    Stage(0.25, (5,), (0.5, 0.6)),
    Stage(0.20, (5, 8), (0.6, 0.6)),
    Stage(0.40, (5, 10, 24), (0.6, 0.6)),
)
# For weights that have the curriculum behind them: time belongs to what a map is made of.
LONG_SEQUENCES = (
    Stage(0.65, (5, 10, 16, 24), (0.6, 0.6)),
    Stage(0.35, (5, 10, 24, 40), (0.6, 0.6)),
)
PLACED_SEQUENCES = (
    Stage(0.35, (5, 8, 12), (0.8, 0.8)),
    Stage(0.65, (5, 10, 16, 32), (0.8, 0.8)),
)
MIXED_SEQUENCES = (Stage(1.0, (5, 8, 12, 24), (0.8, 0.8)),)
OTHER_LENGTHS = (Stage(1.0, (4, 6, 10, 16, 24), (0.8, 0.8)),)
SHORT_AND_LONG = (Stage(1.0, (5, 5, 8, 12, 24), (0.8, 0.8)),)
FULL_TURNS = (Stage(1.0, (5, 5, 8, 24, 40), (0.8, 0.8)),)


LOSSES = ('rooms', 'paper', 'released')
ROOMS_LOSSES_ONLY = ('alpha', 'attention_weight', 'placed_share', 'shown_share', 'shown_slip',
                     'plain_weight')
OPTIMISERS = ('muon', 'adamw')
DECAYS = ('linear', 'cosine')
PRECISIONS = ('fp32', 'tf32', 'bf16')


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run; equal configs and seeds give equal curves on equal hardware.

    `losses` are those of the paper, those its released code computes, which mix the sequences of a
    shard, or those the bundled model is trained with. `data` are folders as 'LAYOUT:FOLDER', none:
    procedural rooms. Every step is the mean over `shards`, drawn apart and shared out evenly among
    processes: as many processes as there are shards, or fewer, give the same curve. `frozen` parts
    of the network (see `optimisers.PARTS`) keep their weights. `frame_gap` is the widest step
    between two views of a recording, in views, at the start and in the middle of a run.

    The fields from `field_of_view_deg` to `textures` are those of `RoomConfig`.
    `turn_share` of the steps walk steady level turns of `turn_range_deg` a frame, to either side;
    the others wander. The best confidence C of a pixel with relative error e is alpha / e, so what
    leaves the network, (C - 1) / C, tends to 1 - e / alpha. `placed_share` of the sequences begin
    as if their first camera stood anywhere in the map: the network has to take the frame of its
    answers from the memory, as it must in the later part of a long sequence. `shown_share` of them
    store true points instead of predicted ones: finding the way in a map that is right is learned
    apart from living with one's own errors. `shown_slip` misplaces their frames, more and more, in
    what is stored but not in what is asked: to find the way in a map that has drifted.
    `plain_weight` regresses the error itself, and the confidence learns beside it instead of
    weighting it: large errors count in full.
    """

    network: Spann3RConfig = field(default_factory=small_network)
    losses: str = 'rooms'
    data: tuple[str, ...] = ()
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
        for name, choices in (('losses', LOSSES), ('optimiser', OPTIMISERS), ('decay', DECAYS),
                              ('precision', PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f'{name}: expected one of {choices}, '
                                 f'got {getattr(self, name)!r}')
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
                             f"'released', else they are the paper's, got {self.shards} with "
                             f'{self.frames_per_step} frames a step')
        for item in fields(self) if self.losses != 'rooms' else ():
            value = getattr(self, item.name)
            if item.name in ROOMS_LOSSES_ONLY and value != item.default:
                raise ValueError(f"{item.name}: expected {item.default}, as only the losses "
                                 f"'rooms' use it, with the losses {self.losses!r}, got {value}")

    def lasting(self, steps: int) -> TrainingConfig:
        """Return the same run in so many steps, of which the warm-up keeps its share."""
        return replace(self, steps=steps,
                       warmup_steps=max(1, round(self.warmup_steps * steps / self.steps)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Build from plain values, the rest by default; ValueError for an unknown name."""
        unknown = sorted(set(values) - {item.name for item in fields(cls)})
        if unknown:
            raise ValueError(f'training config: expected known fields only, got {unknown}')
        made = {name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()}
        if 'network' in made:
            made['network'] = Spann3RConfig.from_dict(made['network'])
        if 'stages' in made:
            made['stages'] = tuple(
                Stage(item['share'], tuple(item['lengths']),
                      tuple(item.get('motion', (1.0, 1.0)))) for item in made['stages'])
        return cls(**made)

    @classmethod
    def read(cls, path: Path) -> TrainingConfig:
        """Read a JSON file of fields; ValueError names the file and what is wrong."""
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{path}: {error}') from error


# The runs that made the bundled model; each but the first began with what the one before released.
BUNDLED_RUNS = {
    'curriculum': TrainingConfig(shards=2),
    'long': TrainingConfig(stages=LONG_SEQUENCES, steps=1925, shards=2, frames_per_step=96,
                           decay_share=0.56, muon_lr=1.5e-3, adam_lr=7.5e-4, turn_share=0.4,
                           seed=7),
    'placed': TrainingConfig(stages=PLACED_SEQUENCES, steps=2000, shards=2, frames_per_step=96,
                             warmup_steps=20, decay_share=1.0, muon_lr=1.5e-3, adam_lr=7.5e-4,
                             turn_share=0.4, placed_share=0.6, seed=17),
    'shown': TrainingConfig(stages=MIXED_SEQUENCES, steps=1500, shards=2, frames_per_step=96,
                            warmup_steps=20, decay_share=1.0, muon_lr=1.2e-3, adam_lr=6e-4,
                            turn_share=0.5, placed_share=0.5, shown_share=0.6, seed=37),
    'own': TrainingConfig(stages=MIXED_SEQUENCES, steps=500, shards=2, frames_per_step=96,
                          warmup_steps=10, decay_share=1.0, muon_lr=5e-4, adam_lr=2.5e-4,
                          turn_share=0.5, placed_share=0.5, shown_share=0.3, seed=57),
    'slipped': TrainingConfig(stages=MIXED_SEQUENCES, steps=1600, shards=2, frames_per_step=96,
                              warmup_steps=20, decay_share=1.0, muon_lr=1.2e-3, adam_lr=6e-4,
                              turn_share=0.5, placed_share=0.5, shown_share=0.35, shown_slip=1.0,
                              seed=67),
    'again': TrainingConfig(stages=OTHER_LENGTHS, steps=1200, shards=2, frames_per_step=96,
                            warmup_steps=20, decay_share=1.0, muon_lr=1.2e-3, adam_lr=6e-4,
                            turn_share=0.5, placed_share=0.5, shown_share=0.35, shown_slip=1.0,
                            seed=77),
    'plain': TrainingConfig(stages=MIXED_SEQUENCES, steps=300, shards=2, frames_per_step=96,
                            warmup_steps=20, decay_share=1.0, muon_lr=4e-4, adam_lr=2e-4,
                            turn_share=0.5, placed_share=0.5, shown_share=0.35, shown_slip=1.0,
                            plain_weight=4.0, seed=87),
    'longer': TrainingConfig(stages=SHORT_AND_LONG, steps=1450, shards=2, frames_per_step=96,
                             warmup_steps=20, decay_share=1.0, muon_lr=7e-4, adam_lr=3.5e-4,
                             turn_share=0.5, placed_share=0.5, shown_share=0.35, shown_slip=1.0,
                             plain_weight=4.0, seed=97),
    'turns': TrainingConfig(stages=FULL_TURNS, steps=1450, shards=2, frames_per_step=96,
                            warmup_steps=20, decay_share=1.0, muon_lr=7e-4, adam_lr=3.5e-4,
                            turn_share=0.6, placed_share=0.5, shown_share=0.35, shown_slip=1.0,
                            plain_weight=4.0, precision='bf16', seed=107),
    'doors': TrainingConfig(stages=FULL_TURNS, steps=1300, shards=2, frames_per_step=96,
                            warmup_steps=20, decay_share=1.0, muon_lr=7e-4, adam_lr=3.5e-4,
                            turn_share=0.6, placed_share=0.5, shown_share=0.35, shown_slip=1.0,
                            plain_weight=4.0, partition_share=0.4, composite_share=0.5,
                            vignetting=0.4, streak=0.02, field_of_view_jitter_deg=12.0,
                            precision='bf16', seed=117),
}
# Runs that release the mean of their weights and of what an earlier run released.
BUNDLED_MEANS = {'again': 'slipped', 'turns': 'longer', 'doors': 'turns'}

# The paper's own training, to go on with the authors' weights or others of their layout: 16
# sequences a step, of five frames as in version 1.0.
PAPER_RUN = TrainingConfig(
    network=Spann3RConfig(), losses='paper', stages=(Stage(1.0, (5,)),), steps=20_000,
    shards=16, frames_per_step=80, warmup_steps=1700, optimiser='adamw', decay='cosine',
    decay_share=0.915, adam_lr=5e-5, weight_decay=0.05, attention_dropout=0.15,
    precision='tf32')
PAPER_RUNS = {
    'paper': PAPER_RUN,
    # Of the training of version 1.01 no more is known than the length of its sequences.
    'paper-v1.01': replace(PAPER_RUN, stages=(Stage(1.0, (10,)),), frames_per_step=160),
    # The released code mixes the sequences that a process has at once: four, as in its README.
    'released': replace(PAPER_RUN, losses='released', shards=4),
}
RUNS = {**BUNDLED_RUNS, **PAPER_RUNS}
