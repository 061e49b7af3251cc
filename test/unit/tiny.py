# SPDX-License-Identifier: Apache-2.0
"""A network so small that a step takes milliseconds."""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.training.training_config import Stage, TrainingConfig

HEIGHT, WIDTH, TOKENS = 32, 48, 6
CONFIG = Spann3RConfig(
    image_height=HEIGHT, image_width=WIDTH, encoder_width=32, encoder_depth=1, encoder_heads=2,
    decoder_width=24, decoder_depth=4, decoder_heads=2, value_depth=1, value_heads=2,
    dpt_width=8, dpt_layers=(4, 6, 8, 10))
# For training on rooms, which are square.
SQUARE = Spann3RConfig(
    image_height=24, image_width=24, patch_size=12, encoder_width=16, encoder_depth=1,
    encoder_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2, value_depth=1,
    value_heads=2, head='linear')


def tiny_run(config: TrainingConfig, **changes: object) -> TrainingConfig:
    """Return a run with the smallest network, two sequences of two or three frames a step."""
    return replace(config, network=SQUARE, stages=(Stage(1.0, (2, 3)),), frames_per_step=6,
                   textures=4, precision='fp32', **changes)


def tiny_model(seed: int = 0, **changes: object) -> Spann3R:
    """Return a seeded network with random weights."""
    torch.manual_seed(seed)
    return Spann3R(replace(CONFIG, **changes)).eval().requires_grad_(False)


def random_images(count: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Return unlike images [count, 1, 3, height, width] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.rand(count, 1, 3, height, width, generator=generator) - 1.0
