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

# Returns the settings of the run of a name, given those that its folder holds, if it is begun.
Settle = Callable[[str, TrainingConfig | None], TrainingConfig]


def train_chain(folder: Path, names: Iterable[str], settle: Settle, means: Mapping[str, str],
                rank: Rank, device: str = 'cpu', save_every_steps: int = 100,
                former_names: Mapping[str, str] | None = None) -> Path:
    """Train runs in their folders below `folder`, in order; return the last one's release.

    Run `name` writes `name`.safetensors when it is finished. A run that has this file is left
    out, so that after a kill the first run without it is resumed. A run in `means` releases the
    mean of its weights and of an earlier run's release. A run that was begun under its name in
    `former_names` is resumed there. All processes must call; the first one releases. ValueError
    for a folder whose run began with other weights.
    """
    start = None
    stems: dict[str, str] = {}
    for name in names:
        former_name = (former_names or {}).get(name, name)
        stem = former_name if rank.agreed(stem_of(folder, name, former_name) != name) else name
        stems[name] = stem
        target = folder / f'{stem}.safetensors'
        if not rank.agreed(target.is_file()):
            config = settle(name, read_run(folder / stem))
            trainer = Trainer(config, folder / stem, rank, device)
            if not trainer.resume() and start is not None:
                trainer.start_from(start)
            if start is not None and trainer.origin.get('began_with') != digest(start):
                raise ValueError(f'{folder / stem}: expected a run that began with {start}, got '
                                 'one that began with other weights; move it away')
            log.info('%s: from step %d to %d', name, trainer.step, config.steps)
            trainer.run(save_every_steps)
            if rank.index == 0:
                release(folder / stem, target,
                        folder / f'{stems[means[name]]}.safetensors' if name in means else None)
            rank.wait()
        start = target
    if start is None:
        raise ValueError('names: expected a run or more')
    return start


def stem_of(folder: Path, name: str, former_name: str) -> str:
    """Return the name that a run's folder and release have: the former one if only it is there."""
    def begun(stem: str) -> bool:
        return (folder / stem).is_dir() or (folder / f'{stem}.safetensors').is_file()
    return former_name if begun(former_name) and not begun(name) else name
