# SPDX-License-Identifier: Apache-2.0
"""What the network costs, beside a plain schedule and the machine's limit: `make bench-network`.

Each image goes through every variant in turn, so that all see the same machine: the plain
schedule (`plain_schedule.py`) and the package with each layout, from an image in host memory to
the results there. On CUDA the parts are timed by events, so that nothing waits between them;
a recorded graph has no parts. The limit of a component is
the larger of its operations at the rate of a large matrix product of the same kind of numbers,
and of its weights at the rate of a copy; all rates are measured in the same run. Where corners are
tracked, without `live_pose`, and with poses from TF, the package leaves out the provisional head,
which the plain schedule always runs: "refined only".
"""
from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spann3r_ros.core.files import write_json
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    HeldOutConfig,
    Turn,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.networks.spann3r.checkpoint import load_model
from spann3r_ros.networks.spann3r.checks.network_parts import (
    count_numbers,
    count_operations,
    limits,
    time_parts,
)
from spann3r_ros.networks.spann3r.checks.plain_schedule import PlainSchedule
from spann3r_ros.networks.spann3r.config import MemoryConfig, Spann3RConfig, scale_memory_budget
from spann3r_ros.networks.spann3r.fast.graph import GraphedStream
from spann3r_ros.networks.spann3r.fast.inference import compile_blocks, prepare
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.networks.spann3r.streams import PlainStream, Stream
from spann3r_ros.networks.stopwatch import Stopwatch, machine_rates, round_products

# The first steps are of another kind: nothing to read, nothing to refine.
WARM_UP = 3
LAYOUTS = {'fp32': prepare, 'int8': lambda model: prepare(model, 'int8'),
           'tf32': lambda model: prepare(model, 'tf32'),
           'bf16': lambda model: prepare(model, 'bf16'),
           'compiled': lambda model: compile_blocks(prepare(model, pack=False)),
           'graph': lambda model: prepare(model, 'tf32'),
           'graph bf16': lambda model: prepare(model, 'bf16'),
           'graph compiled': lambda model: compile_blocks(prepare(model, 'tf32', pack=False))}
# Height and width of the images of the official sizes.
NETWORKS = {'bundled': None, 'full': (224, 224), 'full 512x384': (384, 512)}
BUNDLED = Path(__file__).parents[1] / 'models/rooms_small.safetensors'
# What products are made of; fp32 where a layout does not say.
KINDS = {'int8': 'int8', 'tf32': 'tf32', 'bf16': 'bf16', 'graph': 'tf32', 'graph bf16': 'bf16',
         'graph compiled': 'tf32'}

Outputs = tuple[np.ndarray | None, np.ndarray | None]  # [height, width, 4]: points, confidence


@dataclass
class Variant:
    """One way to run the network: a step, and what its parts took."""

    name: str
    step: Callable[[np.ndarray], Outputs]
    watch: Stopwatch
    rounded: bool  # on CUDA: whether products of float32 are rounded to tf32
    seconds: list[float] = field(default_factory=list)

    def run(self, image: np.ndarray) -> Outputs:
        """Take an image and note the time."""
        round_products(self.rounded)
        began = time.perf_counter()
        outputs = self.step(image)
        self.seconds.append(time.perf_counter() - began)
        self.watch.next_step()
        return outputs


def build(name: str, device: torch.device) -> Spann3R:
    """Return the bundled network, or one of the official sizes with random weights."""
    size = NETWORKS[name]
    if size is None:
        return load_model(BUNDLED, device)
    torch.manual_seed(0)
    config = Spann3RConfig(image_height=size[0], image_width=size[1])
    return Spann3R(config).eval().requires_grad_(False).to(device)


def variants(name: str, memory: MemoryConfig, layouts: list[str],
             device: torch.device) -> list[Variant]:
    """Return the plain schedule and the package with each layout, each with its own weights."""
    made = []
    for label in ('plain', *layouts):
        model, watch = build(name, device), Stopwatch(device)
        size = (model.config.image_height, model.config.image_width)
        if label == 'plain':
            schedule = PlainSchedule(model, memory)
            time_parts(model, schedule, watch)
            step = plain_step(schedule, device)
        elif label.startswith('graph'):
            step = both_heads(GraphedStream(LAYOUTS[label](model), *size, memory))
        else:
            time_parts(LAYOUTS[label](model), model, watch)
            step = both_heads(PlainStream(model, *size, memory))
        made.append(Variant(label, step, watch, rounded=label not in ('plain', 'fp32')))
    return made


def both_heads(stream: Stream) -> Callable[[np.ndarray], Outputs]:
    """Return the step of a stream with the provisional head."""
    return lambda image: (stream.step(image), stream.newest())


def plain_step(schedule: PlainSchedule, device: torch.device) -> Callable[[np.ndarray], Outputs]:
    """Return the plain schedule's step, with its transfers."""
    def step(image: np.ndarray) -> Outputs:
        output = schedule.step(network_input(image).to(device))
        return tuple(None if item is None else item.packed().cpu().numpy()
                     for item in (output.refined, output.provisional))
    return step


def network_input(image: np.ndarray) -> Tensor:
    """Return an image as [1, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float().div(127.5).sub(1.0)


def images(height: int, width: int, frames: int) -> np.ndarray:
    """Return a walk through an unseen room, uint8 [frames, height, width, 3]."""
    rooms = unseen_rooms(HeldOutConfig(), width)
    top = (width - height) // 2
    return next(iter(draw_sequences(rooms, 1, Turn(frames)))).images[:, top:top + height]


def deviation(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the median distance of points [..., 4], as a share of theirs from the origin."""
    off = np.linalg.norm(prediction[..., :3] - truth[..., :3], axis=-1)
    return float(np.median(off / np.linalg.norm(truth[..., :3], axis=-1)))


def measure(name: str, frames: int, layouts: list[str], device: torch.device) -> dict:
    """Run all variants over the same images and return what they took, in seconds."""
    model = build(name, torch.device('cpu'))
    config = model.config
    tokens = math.prod(config.grid(config.image_height, config.image_width))
    memory = scale_memory_budget(MemoryConfig(similarity_threshold=1.0), tokens)
    walk = images(config.image_height, config.image_width, frames)
    typical = min(frames // 2 * tokens, memory.capacity(tokens))  # tokens in memory
    operations = count_operations(model, network_input(walk[0]), typical)
    numbers = count_numbers(model, typical)
    del model
    runs = variants(name, memory, layouts, device)
    off: dict[str, list[float]] = defaultdict(list)
    for image in tqdm(walk, name, unit='frame'):
        outputs = [run.run(image) for run in runs]
        for run, output in zip(runs, outputs, strict=True):
            if output[0] is not None:
                off[run.name].append(deviation(output[0], outputs[0][0]))
    rates = machine_rates(device)
    result = {'network': name, 'frames': frames, 'device': device.type, 'rates': rates,
              'operations': operations, 'numbers': numbers, 'variants': {}}
    plain = np.array(runs[0].seconds[WARM_UP:])
    for run in runs:
        took, times = np.array(run.seconds[WARM_UP:]), run.watch.times
        # The last so many steps: the first ones have no reads and no heads.
        head = np.array(times['provisional head'][-len(took):]) if times else None
        result['variants'][run.name] = {
            'sec': {'step': float(np.median(took)),
                    **{part: float(np.median(one[-len(took):])) for part, one in times.items()}},
            'spread_sec': [float(value) for value in np.percentile(took, (10, 90))],
            'speedup': float(np.median(plain / took)),
            'speedup_refined_only': None if head is None else float(
                np.median(plain / (took - head))),
            'limit_sec': limits(operations, numbers, KINDS.get(run.name, 'fp32'), rates,
                                device.type),
            'deviation': float(np.median(off[run.name])),
            'deviation_last': off[run.name][-1]}
    return result


def show(result: dict) -> None:
    """Print one network's table."""
    runs = result['variants']

    def row(label: str, cell: Callable[[dict], str]) -> list[str]:
        return [label, *(cell(run) for run in runs.values())]

    def part_row(part: str) -> list[str]:
        return row(part, lambda run: (
            f"{1e3 * run['sec'][part]:.1f} ({1e3 * run['limit_sec'][part]:.1f})"
            if part in run['sec'] else '-'))

    rows = [part_row(part) for part in runs['plain']['sec'] if part != 'step']
    rows += [
        row('whole step', lambda run: f"{1e3 * run['sec']['step']:.1f} "
                                      f"({1e3 * sum(run['limit_sec'].values()):.1f})"),
        row('10 % to 90 %', lambda run: '{:.0f}-{:.0f}'.format(
            *(1e3 * item for item in run['spread_sec']))),
        row('times the limit', lambda run:
            f"{run['sec']['step'] / sum(run['limit_sec'].values()):.2f}"),
        row('times as fast as plain', lambda run: f"{run['speedup']:.2f}"),
        row('the same, refined only', lambda run: '-' if run['speedup_refined_only'] is None
            else f"{run['speedup_refined_only']:.2f}"),
        row('deviation, median', lambda run: f"{run['deviation']:.1e}"),
        row('deviation, last frame', lambda run: f"{run['deviation_last']:.1e}")]
    rates = result['rates']
    print(f"\n{result['network']} on {result['device']}: {result['frames']} frames; "
          + ', '.join(f'{kind} {rate / 1e9:.0f}' for kind, rate in rates.items()
                      if kind != 'bytes')
          + f" billion operations/s, {rates['bytes'] / 1e9:.1f} GB/s\n"
          + format_table(['milliseconds (limit)', *runs], rows))


def main() -> int:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--networks', nargs='+', default=['bundled', 'full'],
                        choices=list(NETWORKS))
    parser.add_argument('--layouts', nargs='+', default=['fp32', 'bf16', 'int8'],
                        choices=list(LAYOUTS))
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'),
                        choices=[torch.device('cpu'), torch.device('cuda')])
    parser.add_argument('--frames', type=int, default=20)
    parser.add_argument('--output', type=Path, default=Path('output/network.json'))
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for name in arguments.networks:
        results.append(measure(name, arguments.frames, arguments.layouts, arguments.device))
        show(results[-1])
        # After each network: what is measured stays, whatever becomes of the next one.
        write_json(arguments.output, {
            'date': date.today().isoformat(),
            'machine': platform.processor() or platform.machine(), 'cores': os.cpu_count(),
            'threads': torch.get_num_threads(), 'results': results})
    print(f'wrote {arguments.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
