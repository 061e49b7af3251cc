# SPDX-License-Identifier: Apache-2.0
"""Resumable training loop; several processes share a step when started by torchrun."""
from __future__ import annotations

import csv
import logging
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist
from tqdm import tqdm

from spann3r_ros.model.checkpoint import CheckpointError, load_model, read_metadata
from spann3r_ros.model.spann3r import Spann3R

from .config import Stage, TrainingConfig
from .draw import Draw
from .muon import Muon
from .objective import Objective, sequence_objective
from .paths import placements, slips
from .rooms import RoomBatch, RoomConfig, RoomGenerator
from .unroll import Lesson, move, unroll

log = logging.getLogger(__name__)

TRAINING_TEXTURES_SEED = 1
STATE = 'state.pt'
CURVE_FIELDS = ('step', 'frames', 'seconds', 'length', 'loss', 'point_error', 'last_error',
                'attention_loss', 'gradient_norm', 'lr_scale')


@dataclass(frozen=True)
class Rank:
    """This process among those that share every step."""

    index: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Rank:
        """Join the process group that torchrun announces in the environment, if any."""
        if int(os.environ.get('WORLD_SIZE', '1')) == 1:
            return cls()
        dist.init_process_group('nccl' if torch.cuda.is_available() else 'gloo')
        return cls(dist.get_rank(), dist.get_world_size())


class Trainer:
    """Owns network, optimisers, data and schedule; `run` continues where the state stands."""

    def __init__(self, config: TrainingConfig, folder: Path, rank: Rank,
                 device: str = 'cpu') -> None:
        self.config = config
        self.folder = folder
        self.rank = rank
        self.device = device
        torch.manual_seed(config.seed)
        self.model = Spann3R(config.network).to(device)
        initialise(self.model)
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        hidden, rest = split_parameters(self.model)
        self.optimisers = (
            Muon(hidden, lr=config.muon_lr, weight_decay=config.weight_decay,
                 share=(rank.index, rank.count)),
            torch.optim.AdamW(rest, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
        )
        rooms = RoomConfig(size=config.network.image_height,
                           field_of_view_deg=config.field_of_view_deg,
                           field_of_view_jitter_deg=config.field_of_view_jitter_deg,
                           textures=config.textures)
        self.rooms = RoomGenerator(rooms, 1000 + config.seed + 7919 * rank.index,
                                   TRAINING_TEXTURES_SEED, device)
        self.step = 0
        self.frames = 0
        self.seconds = 0.0

    def run(self, save_every_steps: int = 100) -> None:
        """Train to the last step, saving the state atomically every so many steps."""
        progress = tqdm(total=self.config.steps, initial=self.step, unit='step',
                        disable=self.rank.index != 0, mininterval=10)
        while self.step < self.config.steps:
            row = self.advance()
            progress.update()
            progress.set_postfix(loss=f'{row["loss"]:.3f}', error=f'{row["point_error"]:.3f}')
            # By steps, not by the clock: the processes must agree on the moment.
            if self.step % save_every_steps == 0 or self.step == self.config.steps:
                self.save()

    def advance(self) -> dict[str, float]:
        """Make one step and return its line of the curve."""
        started = time.monotonic()
        row = self._one_step()
        self.seconds += time.monotonic() - started
        row['seconds'] = round(self.seconds, 1)
        self._record(row)
        return row

    def _one_step(self) -> dict[str, float]:
        config = self.config
        stage, position = locate_stage(config.stages, self.step / config.steps)
        # All processes draw the same kind of sequence, each its own rooms.
        draw = random.Random(f'{config.seed} {self.step}')
        length = draw.choice(stage.lengths)
        batch_size = max(1, config.frames_per_step // length // self.rank.count)
        motion = stage.motion[0] + position * (stage.motion[1] - stage.motion[0])
        turn = draw.choice((-1, 1)) * draw.uniform(*config.turn_range_deg)
        batch = self.rooms.batch(
            batch_size, length, motion * min(1.0, 8 / length) ** 0.5,
            'turn' if draw.random() < config.turn_share else 'train', turn)
        objective = self._objective(batch, Draw(draw.getrandbits(32) + self.rank.index))
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        objective.total.backward()
        self._share_gradients()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        scale = learning_rate_scale(config, self.step)
        if torch.isfinite(norm):
            self._update(scale)
        else:
            log.warning('step %d: gradient norm is %s, update left out', self.step, norm)
        self.step += 1
        self.frames += batch_size * length * self.rank.count
        return {'step': self.step, 'frames': self.frames, 'length': length,
                'loss': objective.total.item(), 'point_error': objective.point_error.item(),
                'last_error': objective.last_error.item(),
                'attention_loss': objective.attention_loss.item(),
                'gradient_norm': float(norm), 'lr_scale': scale}

    def _objective(self, batch: RoomBatch, draw: Draw) -> Objective:
        images = batch.images.float().div(127.5).sub(1.0)
        lesson = self._lesson(batch.points, draw)
        output = unroll(self.model, images, lesson)
        return sequence_objective(output, batch.points, self.config.network.patch_size,
                                  self.config.alpha, self.config.attention_weight,
                                  lesson.map_points)

    def _lesson(self, points: Tensor, draw: Draw) -> Lesson:
        count = len(points)
        map_from_first = placements(count, self.config.placed_share, draw).to(self.device)
        shown = draw.uniform(0, 1, count) < self.config.shown_share
        map_points = move(map_from_first, points)
        slipped = slips(*points.shape[:2], self.config.shown_slip, draw).to(self.device)
        shown_points = move(slipped.flatten(0, 1), map_points.flatten(0, 1)).view_as(points)
        return Lesson(map_from_first, map_points, shown_points, shown.to(self.device))

    def _share_gradients(self) -> None:
        if self.rank.count == 1:
            return
        gradients = [item.grad for item in self.model.parameters() if item.grad is not None]
        flat = torch.cat([item.flatten() for item in gradients])
        dist.all_reduce(flat)
        flat /= self.rank.count
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]),
                                  strict=True):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def _update(self, scale: float) -> None:
        rates = (self.config.muon_lr, self.config.adam_lr)
        for optimiser, rate in zip(self.optimisers, rates, strict=True):
            for group in optimiser.param_groups:
                group['lr'] = rate * scale
            optimiser.step()
        # A young average follows quickly, else it would remember the initial weights.
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        for key, value in self.model.state_dict().items():
            self.average[key].lerp_(value, 1.0 - decay)

    def averaged_model(self) -> Spann3R:
        """Return a copy of the network with the averaged weights, for evaluation and release."""
        model = Spann3R(self.config.network)
        model.load_state_dict(self.average)
        return model.eval().requires_grad_(False)

    def save(self) -> None:
        """Write one state for all processes aside, then move it into place; all must call."""
        rooms = self._gather(self.rooms.state())
        if self.rank.index != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / STATE
        state = {
            'step': self.step, 'frames': self.frames, 'seconds': self.seconds,
            'model': self.model.state_dict(), 'average': self.average,
            'optimisers': [item.state_dict() for item in self.optimisers],
            'rooms': rooms,
        }
        torch.save(state, path.with_suffix('.part'))
        os.replace(path.with_suffix('.part'), path)

    def resume(self) -> bool:
        """Load the state of an earlier run of the same folder, if there is one.

        Raises ValueError when that run had another number of processes.
        """
        path = self.folder / STATE
        if not path.is_file():
            return False
        state = torch.load(path, weights_only=True, map_location='cpu')
        if len(state['rooms']) != self.rank.count:
            raise ValueError(f'{path}: expected as many processes as before, '
                             f'{len(state["rooms"])}, got {self.rank.count}')
        self.step, self.frames, self.seconds = state['step'], state['frames'], state['seconds']
        self.model.load_state_dict(state['model'])
        self.average = {key: value.to(self.device) for key, value in state['average'].items()}
        for optimiser, values in zip(self.optimisers, state['optimisers'], strict=True):
            optimiser.load_state_dict(values)
        self.rooms.restore(state['rooms'][self.rank.index])
        return True

    def _gather(self, state: Tensor) -> list[Tensor]:
        """Return the random states of all processes, in order of rank."""
        states = [torch.empty_like(state) for _ in range(self.rank.count)]
        if self.rank.count == 1:
            return [state]
        dist.all_gather(states, state)
        return states

    def start_from(self, checkpoint: Path) -> None:
        """Begin with the weights of a checkpoint of the same sizes; CheckpointError otherwise.

        Frames and seconds of the run it came from count on.
        """
        weights = load_model(checkpoint, self.device)
        if weights.config != self.config.network:
            raise CheckpointError(f'checkpoint: expected {self.config.network}, got '
                                  f'{weights.config}')
        self.model.load_state_dict(weights.state_dict())
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        history = read_metadata(checkpoint) if checkpoint.suffix == '.safetensors' else {}
        self.frames = int(history.get('training_frames', 0))
        self.seconds = float(history.get('training_seconds', 0.0))

    def _record(self, row: dict[str, float]) -> None:
        if self.rank.index != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / 'curve.csv'
        new = not path.exists()
        with path.open('a', newline='') as file:
            writer = csv.DictWriter(file, CURVE_FIELDS)
            if new:
                writer.writeheader()
            writer.writerow({key: row[key] for key in CURVE_FIELDS})


def initialise(model: Spann3R) -> None:
    """Draw small initial weights: Xavier for matrices, tiny for outputs and positions."""
    if model.config.learned_positions:
        nn.init.normal_(model.dust3r.enc_pos_embed, std=0.02)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith(('downstream_head1.proj', 'downstream_head2.proj')):
                module.weight.data.mul_(0.1)


def split_parameters(model: Spann3R) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return (hidden matrices, everything else) of a network."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, item in model.named_parameters():
        matrix = item.ndim == 2 and 'downstream_head' not in name
        (hidden if matrix else rest).append(item)
    return hidden, rest


def locate_stage(stages: tuple[Stage, ...], progress: float) -> tuple[Stage, float]:
    """Return the stage at a progress in [0, 1) and the position within it."""
    start = 0.0
    for stage in stages:
        if progress < start + stage.share:
            return stage, (progress - start) / stage.share
        start += stage.share
    return stages[-1], 1.0


def learning_rate_scale(config: TrainingConfig, step: int) -> float:
    """Return the factor on the learning rates: warm-up, plateau, linear decay to zero."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = (config.steps - step) / (config.decay_share * config.steps)
    return min(warm, 1.0, max(left, 0.01))
