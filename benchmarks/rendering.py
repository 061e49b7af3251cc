# SPDX-License-Identifier: Apache-2.0
"""How fast training images are drawn, beside a training step on them: `make bench-rendering`.

Rooms, places and steps follow each other in turn, so that all see the same machine. A step is
forward and backward pass and the update, of a batch that is drawn already.
"""
from __future__ import annotations

import argparse
import platform
import random
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from spann3r_ros.core.files import write_json
from spann3r_ros.rooms.assets.asset_pack import default_pack, ensure_pack
from spann3r_ros.training.loop import Trainer
from spann3r_ros.training.rank import Rank
from spann3r_ros.training.runs import find_run, read_runs
from spann3r_ros.training.schedule import Moment, moment
from spann3r_ros.training.sources.mixture import open_sources
from spann3r_ros.training.sources.source import TrainingBatch

LENGTH = 8


class Drawn:
    """A source that returns one batch again and again."""

    def __init__(self, batch: TrainingBatch) -> None:
        self._batch = batch

    def batch(self, batch_size: int, frames: int, size: tuple[int, int], now: Moment,
              draw: random.Random) -> TrainingBatch:
        """Return the batch."""
        return self._batch


def measure(run: str, rounds: int, device: str, pack: Path) -> dict[str, list[float]]:
    """Return the seconds per image of each round, by what was done."""
    config = find_run(read_runs(), run).config
    config = replace(config, stages=(replace(config.stages[0], share=1.0, lengths=(LENGTH,)),))
    size = (config.network.image_height, config.network.image_width)
    count = max(1, config.frames_per_step // LENGTH)
    now, draw = moment(config, config.steps // 2), random.Random(0)
    sources = {}
    for name, share in (('rooms', 0.0), ('places', 1.0)):
        alone = replace(config, places_share=share, data=())
        sources[name] = open_sources(alone, [0], device, pack)[0]
    took: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(replace(config, places_share=0.0, data=()), Path(folder), Rank(), device)
        for _ in tqdm(range(rounds + 1), 'rounds'):
            for name, source in sources.items():
                began = time.perf_counter()
                batch = source.batch(count, LENGTH, size, now, draw)
                _finish(device)
                took[name].append((time.perf_counter() - began) / (count * LENGTH))
            trainer.sources = {0: Drawn(batch)}
            began = time.perf_counter()
            trainer.advance()
            _finish(device)
            took['training step'].append((time.perf_counter() - began) / (count * LENGTH))
    return {name: values[1:] for name, values in took.items()}


def _finish(device: str) -> None:
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize()


def main() -> int:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--run', default='places', help='default: %(default)s')
    parser.add_argument('--rounds', type=int, default=8, help='default: %(default)s')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--pack', type=Path, default=default_pack())
    parser.add_argument('--output', type=Path, default=Path('output/rendering.json'))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ensure_pack(arguments.pack)
    took = measure(arguments.run, arguments.rounds, arguments.device, arguments.pack)
    for name, values in took.items():
        low, middle, high = np.percentile(values, (10, 50, 90))
        ratio = np.median(np.array(values) / took['training step'])
        print(f'{name:14} {1e3 * middle:6.1f} ms an image (10 % {1e3 * low:.1f}, '
              f'90 % {1e3 * high:.1f}), {1 / middle:6.1f} images/s, {ratio:.2f} of a step')
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {'date': date.today().isoformat(), 'device': arguments.device,
                                  'machine': platform.processor() or platform.machine(),
                                  'seconds_per_image': took})
    print(f'wrote {arguments.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
