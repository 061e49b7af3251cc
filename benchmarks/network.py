# SPDX-License-Identifier: Apache-2.0
"""What the network costs, beside a plain schedule and the machine's limit: `make bench-network`.

Each image goes through every variant in turn, so that all see the same machine: the plain
schedule and the package with each layout, from an image in host memory to the results there. On
CUDA the parts are timed by events, so that nothing waits between them; a recorded graph has no
parts; `spann3r check` measures whole steps there. The limit of a component is the larger of its
operations at the rate of a large matrix product of the same kind of numbers, and of its weights at
the rate of a copy; all rates are measured in the same run. Where corners are tracked, without
`live_pose`, and with poses from TF, the package leaves out the provisional head, which the plain
schedule always runs: "refined only".
"""
from __future__ import annotations

import argparse
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
from tqdm import tqdm

from spann3r_ros.core.files import write_json
from spann3r_ros.evaluation.device_check.speeds import deviation, walk
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.networks.spann3r.checks.network_parts import (
    count_numbers,
    count_operations,
    limits,
    time_parts,
)
from spann3r_ros.networks.spann3r.checks.variants import (
    BUNDLED,
    LAYOUTS,
    PLAIN,
    PlainVariant,
    StreamVariant,
    build_model,
    build_variant,
    kind_of_numbers,
    memory_of,
    tokens_of,
)
from spann3r_ros.networks.spann3r.streams import to_input
from spann3r_ros.networks.stopwatch import Stopwatch, machine_rates

# The first steps are of another kind: nothing to read, nothing to refine.
WARM_UP = 3
NETWORKS = (BUNDLED, 'full 224x224', 'full 512x384')

Outputs = tuple[np.ndarray | None, np.ndarray | None]  # [height, width, 4]: points, confidence


@dataclass
class Run:
    """One way to run the network: a variant, and what its steps and their parts took."""

    name: str
    variant: PlainVariant | StreamVariant
    watch: Stopwatch
    seconds: list[float] = field(default_factory=list)

    def step(self, image: np.ndarray) -> Outputs:
        """Take an image and note the time."""
        began = time.perf_counter()
        outputs = self.variant.step(image), self.variant.newest()
        self.seconds.append(time.perf_counter() - began)
        self.watch.next_step()
        return outputs


def build_runs(network: str, layouts: list[str], device: torch.device) -> list[Run]:
    """Return the plain schedule and the package with each layout, each with its own weights."""
    runs = []
    for layout in (PLAIN, *layouts):
        variant, watch = build_variant(network, layout, device), Stopwatch(device)
        if layout == PLAIN:
            time_parts(variant.model, variant.schedule, watch)
        elif not layout.startswith('graph'):
            time_parts(variant.model, variant.model, watch)
        runs.append(Run(layout, variant, watch))
    return runs


def measure(name: str, frames: int, layouts: list[str], device: torch.device) -> dict:
    """Run all variants over the same images and return what they took, in seconds."""
    cpu = torch.device('cpu')
    model = build_model(name, cpu)
    config = model.config
    tokens, memory = tokens_of(config), memory_of(config)
    images = walk(config.image_height, config.image_width, frames)
    typical = min(frames // 2 * tokens, memory.capacity(tokens))  # tokens in memory
    operations = count_operations(model, to_input(images[0], cpu), typical)
    numbers = count_numbers(model, typical)
    del model
    runs = build_runs(name, layouts, device)
    off: dict[str, list[float]] = defaultdict(list)
    for image in tqdm(images, name, unit='frame'):
        outputs = [run.step(image) for run in runs]
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
            'limit_sec': limits(operations, numbers, kind_of_numbers(run.name, device),
                                rates, device.type),
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
    parser.add_argument('--networks', nargs='+', default=NETWORKS[:2], choices=NETWORKS)
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
