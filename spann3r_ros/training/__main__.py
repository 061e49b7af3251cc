# SPDX-License-Identifier: Apache-2.0
"""Command line of the training: `python -m spann3r_ros.training FOLDER` or under torchrun."""
from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from .config import TrainingConfig
from .loop import Rank, Trainer
from .release import release


def main() -> None:
    """Train, continuing an earlier run of the same folder, or release what it has learned."""
    parser = argparse.ArgumentParser(prog='python -m spann3r_ros.training', description=__doc__)
    parser.add_argument('folder', type=Path, nargs='?', default=Path('output/training'),
                        help='where state and curve are kept')
    parser.add_argument('--release', type=Path, metavar='FILE',
                        help='write the averaged weights to a .safetensors file instead')
    parser.add_argument('--start-from', type=Path, metavar='FILE',
                        help='checkpoint whose weights a new run begins with')
    parser.add_argument('--steps', type=int, default=TrainingConfig.steps)
    parser.add_argument('--frames-per-step', type=int, default=TrainingConfig.frames_per_step)
    parser.add_argument('--seed', type=int, default=TrainingConfig.seed)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each process')
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(options.threads)
    config = TrainingConfig(steps=options.steps, frames_per_step=options.frames_per_step,
                            seed=options.seed)
    if options.release:
        release(options.folder, config, options.release)
        return
    trainer = Trainer(config, options.folder, Rank.join(), options.device)
    if not trainer.resume() and options.start_from:
        trainer.start_from(options.start_from)
    trainer.run()


if __name__ == '__main__':
    main()
