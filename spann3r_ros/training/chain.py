# SPDX-License-Identifier: Apache-2.0
"""Several runs in a row, each with the weights that the one before released."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .loop import Trainer, digest, read_run
from .rank import Rank
from .release import release
from .training_config import TrainingConfig

log = logging.getLogger(__name__)

# Settings of the run of a name, given those that its folder holds, if it is begun.
Settle = Callable[[str, TrainingConfig | None], TrainingConfig]


def train_chain(folder: Path, names: Iterable[str], settle: Settle, means: Mapping[str, str],
                rank: Rank, device: str = 'cpu', save_every_steps: int = 100) -> Path:
    """Go through runs in their folders below `folder`; return the last one's release.

    Run `name` releases `name`.safetensors, of which there is none before: a run that has it is
    finished, and after a kill the first without it goes on. Those in `means` release the mean of
    their weights and an earlier run's release. All processes must call; the first one releases.
    ValueError for a folder whose run began with other weights.
    """
    start = None
    for name in names:
        target = folder / f'{name}.safetensors'
        if not rank.agreed(target.is_file()):
            config = settle(name, read_run(folder / name))
            trainer = Trainer(config, folder / name, rank, device)
            if not trainer.resume() and start is not None:
                trainer.start_from(start)
            if start is not None and trainer.origin.get('began_with') != digest(start):
                raise ValueError(f'{folder / name}: expected a run that began with {start}, got '
                                 'one that began with other weights; move it away')
            log.info('%s: from step %d to %d', name, trainer.step, config.steps)
            trainer.run(save_every_steps)
            if rank.index == 0:
                release(folder / name, target,
                        folder / f'{means[name]}.safetensors' if name in means else None)
            rank.wait()
        start = target
    if start is None:
        raise ValueError('names: expected a run or more')
    return start
