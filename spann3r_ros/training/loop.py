# SPDX-License-Identifier: Apache-2.0
"""Resumable training loop; several processes share a step when started by torchrun."""
from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from tqdm import tqdm

from spann3r_ros.core.files import write_files
from spann3r_ros.networks.checkpoint_files import CheckpointError
from spann3r_ros.networks.trainable import StoredPoints, move
from spann3r_ros.rooms.draw import Draw
from spann3r_ros.rooms.paths import drifts, placements

from . import curve
from .losses import confidence_alpha
from .objective import Objective, paper_objective, sequence_objective
from .optimisers import build_optimisers, restore
from .rank import Rank
from .schedule import Moment, learning_rate_scale, moment
from .sources.mixture import open_sources
from .sources.source import TrainingBatch
from .training_config import TrainingConfig

log = logging.getLogger(__name__)

STATE = 'state.pt'
CURVE = 'curve.csv'
# Fields of an Objective; all but the first are columns of the curve, under the same names.
MEASURED = ('total', 'point_error', 'last_error', 'attention_loss')


def read_run(folder: Path) -> TrainingConfig | None:
    """Return the settings of the run in a folder; None without a run."""
    if not (folder / STATE).is_file():
        return None
    state = torch.load(folder / STATE, weights_only=True, map_location='cpu', mmap=True)
    return TrainingConfig.from_dict(json.loads(state['config']))


class Trainer:
    """The network, optimisers, data and schedule of a run, and its state."""

    def __init__(self, config: TrainingConfig, folder: Path, rank: Rank,
                 device: str = 'cpu', pack: Path | None = None) -> None:
        if config.shards % rank.count:
            raise ValueError(f'shards: expected a multiple of the {rank.count} processes, '
                             f'got {config.shards}')
        self.config = config
        self.folder = folder
        self.rank = rank
        self.device = device
        if torch.device(device).type == 'cuda':
            torch.set_float32_matmul_precision('highest' if config.precision == 'fp32' else 'high')
        torch.manual_seed(config.seed)
        self.trainable = config.trainable
        self.model = self.trainable.build(config.network).to(device)
        self.trainable.initialise(self.model)
        self.trainable.freeze(self.model, config.frozen)
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.optimisers = build_optimisers(self.model, config, (rank.index, rank.count))
        self.sources = open_sources(
            config, range(rank.index, config.shards, rank.count), device, pack)
        self.step = 0
        self.frames = 0
        self.seconds = 0.0
        self.origin: dict[str, str] = {}  # history of the weights it began with

    def run(self, save_every_steps: int = 100,
            saved: Callable[[], object] = lambda: None) -> None:
        """Train to the last step; save the state, atomically, every `save_every_steps` steps.

        The first process calls `saved` after that.
        """
        progress = tqdm(total=self.config.steps, initial=self.step, unit='step',
                        disable=self.rank.index != 0, mininterval=10)
        began, frames = time.monotonic(), self.frames
        while self.step < self.config.steps:
            row = self.advance()
            progress.update()
            speed = (self.frames - frames) / (time.monotonic() - began)
            progress.set_postfix(loss=f'{row["loss"]:.3f}', error=f'{row["point_error"]:.3f}',
                                 frames_a_sec=f'{speed:.1f}')
            # By steps, not by the clock, so that all processes save after the same step.
            if self.step % save_every_steps == 0 or self.step == self.config.steps:
                self.save()
                if self.rank.index == 0:
                    saved()

    def advance(self) -> dict[str, float]:
        """Make one step and return its line of the curve."""
        started = time.monotonic()
        row = self._one_step()
        self.seconds += time.monotonic() - started
        row['seconds'] = round(self.seconds, 1)
        if self.rank.index == 0:
            curve.append(self.folder / CURVE, row)
        return row

    def _one_step(self) -> dict[str, float]:
        config = self.config
        now = moment(config, self.step)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        measured = torch.zeros(len(MEASURED), dtype=torch.float64)
        for shard, source in self.sources.items():
            # All shards use the same length and kind of sequence, with different content.
            draw = random.Random(f'{config.seed} {self.step}')
            length = draw.choice(now.stage.lengths)
            batch_size = max(1, config.frames_per_step // length // config.shards)
            sizes = config.network.sizes
            size = draw.choice(sizes) if len(sizes) > 1 else sizes[0]
            batch = source.batch(batch_size, length, size, now, draw)
            objective = self._objective(batch, draw.getrandbits(32) + shard, now)
            (objective.total / config.shards).backward()
            measured += torch.stack([getattr(objective, name).detach() for name in MEASURED]
                                    ).double().cpu() / config.shards
        measured = self._share(measured)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        scale = learning_rate_scale(config, self.step)
        if torch.isfinite(norm):
            self._update(scale)
        else:
            log.warning('step %d: skipped the update, its gradient norm is %s', self.step, norm)
        self.step += 1
        self.frames += batch_size * length * config.shards
        total, *errors = measured.tolist()
        return {'step': self.step, 'frames': self.frames, 'length': length, 'loss': total,
                **dict(zip(MEASURED[1:], errors, strict=True)), 'gradient_norm': float(norm),
                'lr_scale': scale}

    def _objective(self, batch: TrainingBatch, seed: int, now: Moment) -> Objective:
        config = self.config
        images = batch.images.float().div(127.5).sub(1.0)
        if config.attention_dropout:
            torch.manual_seed(seed)  # depends on the step alone, so that a resumed run repeats it
        half = config.precision == 'bf16'
        if config.losses != 'rooms':
            output = self.trainable.unroll(self.model, images, None, config.attention_dropout,
                                           half)
            return paper_objective(output, batch.points, batch.valid,
                                   confidence_alpha(now.progress), config.losses == 'released')
        stored = self._stored_points(batch.points, Draw(seed))
        output = self.trainable.unroll(self.model, images, stored, config.attention_dropout, half)
        return sequence_objective(output, batch.points, batch.valid, config.network.patch_size,
                                  config.alpha, config.attention_weight, config.plain_weight,
                                  stored.map_points)

    def _stored_points(self, points: Tensor, draw: Draw) -> StoredPoints:
        count = len(points)
        map_from_first = placements(count, self.config.placed_share, draw).to(self.device)
        replaced = draw.uniform(0, 1, count) < self.config.shown_share
        map_points = move(map_from_first, points)
        drifted = drifts(*points.shape[:2], self.config.shown_slip, draw).to(self.device)
        moved = move(drifted.flatten(0, 1), map_points.flatten(0, 1)).view_as(points)
        return StoredPoints(map_from_first, map_points, moved, replaced.to(self.device))

    def _share(self, measured: Tensor) -> Tensor:
        """Sum gradients and measurements over all processes; return the measurements."""
        if self.rank.count == 1:
            return measured
        gradients = [item.grad for item in self.model.parameters() if item.grad is not None]
        flat = torch.cat([item.flatten() for item in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]),
                                  strict=True):
            gradient.copy_(part.view_as(gradient))
        measured = measured.to(self.device)
        dist.all_reduce(measured)
        return measured.cpu()

    @torch.no_grad()
    def _update(self, scale: float) -> None:
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group['lr'] = group['peak_lr'] * scale
            optimiser.step()
        # A lower decay at first, so that the initial weights leave the average quickly.
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        for key, value in self.model.state_dict().items():
            self.average[key].lerp_(value, 1.0 - decay)

    def save(self) -> None:
        """Write the state of all processes to a temporary file and rename it; all must call."""
        sources = self._gather()
        if self.rank.index != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / STATE
        state = {
            'step': self.step, 'frames': self.frames, 'seconds': self.seconds,
            'model': self.model.state_dict(), 'average': self.average,
            'optimisers': [item.state_dict() for item in self.optimisers],
            'sources': sources, 'config': json.dumps(self.config.to_dict()),
            'origin': self.origin,
        }
        write_files({path: partial(torch.save, state)})

    def resume(self) -> bool:
        """Load the state of an earlier run in the same folder; return whether there was one.

        Lines of the curve after that state are removed, as their steps are repeated. Raises
        ValueError if the network, the optimiser, the frozen parts or the number of shards differ
        from that run's, and if the processes find different states. Other settings that differ are
        logged as a warning.
        """
        path = self.folder / STATE
        found = path.is_file()
        if found:
            self._load(torch.load(path, weights_only=True, map_location='cpu'))
        self._agree()
        if self.rank.index == 0:
            curve.cut(self.folder / CURVE, self.step)
        return found

    def _load(self, state: dict[str, Any]) -> None:
        self._compare(json.loads(state['config']))
        self.step, self.frames, self.seconds = state['step'], state['frames'], state['seconds']
        self.origin = state['origin']
        self.model.load_state_dict(state['model'])
        self.average = {key: value.to(self.device) for key, value in state['average'].items()}
        for optimiser, values in zip(self.optimisers, state['optimisers'], strict=True):
            restore(optimiser, values)
        for shard, source in self.sources.items():
            source.restore(state['sources'][shard])

    def _agree(self) -> None:
        if self.rank.count == 1:
            return
        steps = [torch.zeros(1, dtype=torch.int64) for _ in range(self.rank.count)]
        dist.all_gather(steps, torch.tensor([self.step]))
        if len({int(step) for step in steps}) > 1:
            raise ValueError(f'{self.folder}: expected one folder that all processes share, got '
                             f'runs at the steps {[int(step) for step in steps]}')

    def _compare(self, before: dict[str, Any]) -> None:
        # A field that is missing in an old state had the value that is its default now.
        defaults = TrainingConfig().to_dict()
        now, before = (json.loads(json.dumps({**defaults, **values}))
                       for values in (self.config.to_dict(), before))
        for name in ('network_name', 'network', 'optimiser', 'frozen', 'shards'):
            if before[name] != now[name]:
                raise ValueError(f'{self.folder}: expected the {name} that the run began with, '
                                 f'{before[name]}, got {now[name]}')
        # The saved random states are those of the sources.
        sources = [[share > 0.0 for share in TrainingConfig.from_dict(values).source_shares]
                   for values in (before, now)]
        if sources[0] != sources[1]:
            raise ValueError(f'{self.folder}: expected rooms, places and recordings as the run '
                             f'began with, {sources[0]}, got {sources[1]}')
        changed = [f'{name} {before.get(name)} -> {value}' for name, value in now.items()
                   if before.get(name) != value]
        if changed:
            log.warning('%s: resumed with changed settings: %s', self.folder, ', '.join(changed))

    def _gather(self) -> list[Tensor]:
        """Return the random states of all shards, in their order."""
        own = torch.stack([source.state() for source in self.sources.values()])
        parts = [own]
        if self.rank.count > 1:
            parts = [torch.empty_like(own) for _ in range(self.rank.count)]
            dist.all_gather(parts, own)
        # Process r has the shards r, r + count, ...
        return [parts[shard % self.rank.count][shard // self.rank.count].clone()
                for shard in range(self.config.shards)]

    def start_from(self, checkpoint: Path) -> None:
        """Begin with the weights of a checkpoint; CheckpointError for one of other sizes.

        Its images may have another size, and the run's network more blocks. The counters of frames
        and seconds continue from those of the checkpoint.
        """
        weights = self.trainable.load_model(checkpoint, self.device)
        try:
            self.trainable.copy_weights(self.model, weights)
        except ValueError as error:
            raise CheckpointError(f'checkpoint: {error}') from error
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        history = self.trainable.read_history(checkpoint)
        self.frames = int(history.get('training_frames', 0))
        self.seconds = float(history.get('training_seconds', 0.0))
        self.origin = {'licence': f'as that of {checkpoint.name}',
                       'training_data': f'as {checkpoint.name}', **history,
                       'began_with': digest(checkpoint)}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
