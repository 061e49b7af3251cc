# SPDX-License-Identifier: Apache-2.0
"""What a memory costs as it grows and as it grows old: `make bench-memory`.

First whole steps of the full-size network with random weights, beside the plain schedule, with so
many tokens in memory. Then, without a network, frame after frame read and written, by the memory
of the ordinary step and that of the recorded one: a memory that has reached its limit must cost
the same from then on.
"""
from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spann3r_ros.core.files import write_json
from spann3r_ros.evaluation.device_check.speeds import walk
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.networks.spann3r.checks.network_parts import time_parts
from spann3r_ros.networks.spann3r.checks.plain_schedule import PlainSchedule
from spann3r_ros.networks.spann3r.checks.variants import LAYOUTS, build_model
from spann3r_ros.networks.spann3r.config import MemoryConfig, scale_memory_budget
from spann3r_ros.networks.spann3r.fast.static import StaticMemory
from spann3r_ros.networks.spann3r.memory import MemoryEntry, SpatialMemory
from spann3r_ros.networks.spann3r.spann3r import StreamState
from spann3r_ros.networks.spann3r.streams import to_input
from spann3r_ros.networks.stopwatch import Stopwatch

FULL = 'full 224x224'
TOKENS = (0, 1000, 4000, 10_000, 20_000)
STEPS = 3
SIZES = {'full': (196, 1024), 'bundled': (64, 192)}  # tokens of a frame, width
PARTS = 10


def measure_sizes(layout: str, device: torch.device) -> list[dict[str, float]]:
    """Return the seconds of steps, plain and of a layout, and of the latter's memory read."""
    memory = MemoryConfig(similarity_threshold=1.0, long_term_tokens=2 * max(TOKENS))
    model, watch = LAYOUTS[layout](build_model(FULL, device)), Stopwatch(device)
    time_parts(model, model, watch)
    plain = PlainSchedule(build_model(FULL, device), memory)
    size = (model.config.image_height, model.config.image_width)
    images = [to_input(image, device) for image in walk(*size, 3)]
    state = model.start(*size, memory)
    for image in images:
        model.step(state, image)
        plain.step(image)
    rows = []
    for tokens in tqdm(TOKENS, 'tokens in memory'):
        if tokens:
            fill(state, tokens)
        plain.fill(state.memory.raw_keys.clone(), state.memory.values.clone())
        watch.next_step()
        watch.times.clear()
        took: dict[str, list[float]] = {'plain': [], layout: []}
        for index in range(STEPS):
            image = images[index % len(images)]
            took['plain'].append(_timed(lambda image=image: plain.step(image), device))
            took[layout].append(_timed(
                lambda image=image: model.step(state, image, provisional=True), device))
            watch.next_step()
        rows.append({'tokens': state.memory.tokens, 'plain': float(np.median(took['plain'])),
                     layout: float(np.median(took[layout])),
                     'read': float(np.median(watch.times['memory read']))})
    return rows


def fill(state: StreamState, tokens: int) -> None:
    """Write random frames until a memory holds so many tokens."""
    while state.memory.tokens < tokens:
        state.memory.write(None, random_entry(SIZES['full'], state.query.device))


def random_entry(size: tuple[int, int], device: torch.device) -> MemoryEntry:
    """Return a frame unlike any other, of so many tokens and such a width."""
    return MemoryEntry(*torch.randn(3, *size, device=device))


def measure_age(size: tuple[int, int], frames: int,
                device: torch.device) -> dict[str, list[float]]:
    """Return the seconds a frame takes in each tenth of a sequence, of either memory."""
    config = scale_memory_budget(MemoryConfig(similarity_threshold=1.0), size[0])
    plain, static = (kind(config, *size, device) for kind in (SpatialMemory, StaticMemory))
    entries = [random_entry(size, device) for _ in range(16)]

    def ordinary(query: Tensor, entry: MemoryEntry) -> None:
        plain.write(plain.read(query)[1] if plain.tokens else None, entry)

    def recorded(query: Tensor, entry: MemoryEntry) -> None:
        static.write(static.read(query)[1], entry)

    took: dict[str, list[float]] = {'ordinary': [], 'recorded': []}
    with torch.inference_mode():
        for index in tqdm(range(frames), 'frames'):
            entry, query = entries[index % 16], entries[(index + 1) % 16].key
            for name, step in (('ordinary', ordinary), ('recorded', recorded)):
                took[name].append(_timed(lambda s=step, q=query, e=entry: s(q, e), device))
    return {name: [float(np.median(part)) for part in np.array_split(times, PARTS)]
            for name, times in took.items()}


def _timed(action: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    action()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def main() -> int:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--layout', default='fp32',
                        choices=[name for name in LAYOUTS if not name.startswith('graph')])
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'))
    parser.add_argument('--frames', type=int, default=2000)
    parser.add_argument('--age-only', choices=list(SIZES),
                        help='only what a memory of this size costs frame after frame')
    parser.add_argument('--output', type=Path, default=Path('output/memory.json'))
    arguments = parser.parse_args()
    if arguments.frames < PARTS:
        parser.error(f'--frames: expected at least {PARTS}, got {arguments.frames}')
    sizes = [] if arguments.age_only else measure_sizes(arguments.layout, arguments.device)
    if sizes:
        print('\nmilliseconds of a whole step, both heads\n' + format_table(
            ['tokens', 'plain', arguments.layout, 'times as fast', 'of it memory read'],
            [[str(row['tokens']), f"{1e3 * row['plain']:.0f}",
              f'{1e3 * row[arguments.layout]:.0f}',
              f"{row['plain'] / row[arguments.layout]:.2f}",
              f"{1e3 * row['read']:.1f} ({100 * row['read'] / row[arguments.layout]:.1f} %)"]
             for row in sizes]))
    ages = measure_age(SIZES[arguments.age_only or 'full'], arguments.frames, arguments.device)
    print(f'\nmilliseconds of reading and writing, medians of each tenth of {arguments.frames} '
          'frames\n' + format_table(['memory', *map(str, range(1, PARTS + 1)), 'last : second'], [
              [name, *(f'{1e3 * part:.1f}' for part in parts), f'{parts[-1] / parts[1]:.2f}']
              for name, parts in ages.items()]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {
        'date': date.today().isoformat(), 'machine': platform.processor() or platform.machine(),
        'cores': os.cpu_count(), 'frames': arguments.frames, 'sizes': sizes, 'ages': ages})
    print(f'wrote {arguments.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
