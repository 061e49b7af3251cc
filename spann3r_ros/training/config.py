# SPDX-License-Identifier: Apache-2.0
"""What a training run consists of: network, stages, optimiser."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from spann3r_ros.model.config import Spann3RConfig


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


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run; equal configs and seeds give equal curves on equal hardware.

    `turn_share` of the steps walk steady level turns of `turn_range_deg` a frame, to either side;
    the others wander. The best confidence C of a pixel with relative error e is alpha / e, so what
    leaves the network, (C - 1) / C, tends to 1 - e / alpha. `placed_share` of the sequences begin
    as if their first camera stood anywhere in the map: the network has to take the frame of its
    answers from the memory, as it must in the later part of a long sequence. `shown_share` of them
    store true points instead of predicted ones: finding the way in a map that is right is learned
    apart from living with one's own errors. `shown_slip` misplaces their frames, more and more, in
    what is stored but not in what is asked: to find the way in a map that has drifted.
    """

    network: Spann3RConfig = field(default_factory=small_network)
    stages: tuple[Stage, ...] = CURRICULUM
    steps: int = 2600
    frames_per_step: int = 72
    warmup_steps: int = 60
    decay_share: float = 0.45
    muon_lr: float = 2e-3
    adam_lr: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    average_decay: float = 0.998
    alpha: float = 0.5
    attention_weight: float = 0.1
    field_of_view_deg: float = 80.0
    field_of_view_jitter_deg: float = 0.0
    textures: int = 384
    turn_share: float = 0.3
    turn_range_deg: tuple[float, float] = (2.0, 14.0)
    placed_share: float = 0.0
    shown_share: float = 0.0
    shown_slip: float = 0.0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return asdict(self)


# The runs that made the bundled model; each but the first began with what the one before released.
BUNDLED_RUNS = {
    'curriculum': TrainingConfig(),
    'long': TrainingConfig(stages=LONG_SEQUENCES, steps=1925, frames_per_step=96,
                           decay_share=0.56, muon_lr=1.5e-3, adam_lr=7.5e-4, turn_share=0.4,
                           seed=7),
    'placed': TrainingConfig(stages=PLACED_SEQUENCES, steps=2000, frames_per_step=96,
                             warmup_steps=20, decay_share=1.0, muon_lr=1.5e-3, adam_lr=7.5e-4,
                             turn_share=0.4, placed_share=0.6, seed=17),
    'shown': TrainingConfig(stages=MIXED_SEQUENCES, steps=1500, frames_per_step=96,
                            warmup_steps=20, decay_share=1.0, muon_lr=1.2e-3, adam_lr=6e-4,
                            turn_share=0.5, placed_share=0.5, shown_share=0.6, seed=37),
    'own': TrainingConfig(stages=MIXED_SEQUENCES, steps=500, frames_per_step=96,
                          warmup_steps=10, decay_share=1.0, muon_lr=5e-4, adam_lr=2.5e-4,
                          turn_share=0.5, placed_share=0.5, shown_share=0.3, seed=57),
    'slipped': TrainingConfig(stages=MIXED_SEQUENCES, steps=1600, frames_per_step=96,
                              warmup_steps=20, decay_share=1.0, muon_lr=1.2e-3, adam_lr=6e-4,
                              turn_share=0.5, placed_share=0.5, shown_share=0.35, shown_slip=1.0,
                              seed=67),
}
