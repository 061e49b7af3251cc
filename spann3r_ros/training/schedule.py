# SPDX-License-Identifier: Apache-2.0
"""The schedule of a run: stages, learning rates, motion of the camera."""
from __future__ import annotations

import math
from dataclasses import dataclass

from .training_config import Stage, TrainingConfig

# The paper's last learning rate is 1e-6, its peak 5e-5.
COSINE_FLOOR = 0.02


@dataclass(frozen=True)
class Moment:
    """The schedule at one step: progress in [0, 1), stage, and range of the camera's motion.

    `motion` follows the stage and is for rooms; `reach` in [0, 1] follows the whole run and is for
    recordings.
    """

    progress: float
    stage: Stage
    motion: float
    reach: float


def moment(config: TrainingConfig, step: int) -> Moment:
    """Return the schedule of a run at a step."""
    progress = step / config.steps
    stage, position = locate_stage(config.stages, progress)
    motion = stage.motion[0] + position * (stage.motion[1] - stage.motion[0])
    return Moment(progress, stage, motion, interval_reach(progress))


def locate_stage(stages: tuple[Stage, ...], progress: float) -> tuple[Stage, float]:
    """Return the stage at a progress in [0, 1) and the position within it."""
    start = 0.0
    for stage in stages:
        if progress < start + stage.share:
            return stage, (progress - start) / stage.share
        start += stage.share
    return stages[-1], 1.0


def interval_reach(progress: float) -> float:
    """Return the share of the widest frame gap: rising to 1, then falling to 1/2 (Eq. 14-15)."""
    if progress < 0.75:
        return min(1.0, 2.0 * progress)
    return max(0.5, 1.0 - (progress - 0.75) / 0.25)


def learning_rate_scale(config: TrainingConfig, step: int) -> float:
    """Return the factor on the learning rates: warm-up, plateau, linear or half-cosine decay."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = (config.steps - step) / (config.decay_share * config.steps)
    if config.decay == 'cosine':
        left = COSINE_FLOOR + (1 - COSINE_FLOOR) * (1 - math.cos(math.pi * min(left, 1.0))) / 2
    return min(warm, 1.0, max(left, 0.01))
