# SPDX-License-Identifier: Apache-2.0
"""Command line of the training: `python -m spann3r_ros.training FOLDER` or under torchrun."""
from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch

from .config import BUNDLED_RUNS
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
                        help='checkpoint to begin with, in a folder of its own')
    first = next(iter(BUNDLED_RUNS))
    parser.add_argument('--run', choices=list(BUNDLED_RUNS), default=first,
                        help='which of the runs that made the bundled model; all but the first '
                             'start from the release of the one before')
    parser.add_argument('--steps', type=int, help='default: those of the bundled model')
    parser.add_argument('--frames-per-step', type=int)
    parser.add_argument('--seed', type=int)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each process')
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(options.threads)
    given = {name: value for name in ('steps', 'frames_per_step', 'seed')
             if (value := getattr(options, name)) is not None}
    config = replace(BUNDLED_RUNS[options.run], **given)
    if options.release:
        release(options.folder, config, options.release)
        return
    trainer = Trainer(config, options.folder, Rank.join(), options.device)
    if not trainer.resume():
        if options.start_from:
            trainer.start_from(options.start_from)
        elif options.run != first:
            parser.error(f'--run {options.run}: expected --start-from FILE, which it continues')
    trainer.run()


if __name__ == '__main__':
    main()
