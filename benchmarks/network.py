# SPDX-License-Identifier: Apache-2.0
"""What the network costs, beside a plain schedule and the machine's limit: `make bench-network`.

Each image goes through every variant in turn, so that all see the same machine: the plain
schedule (`plain_schedule.py`) and the package with each layout. The limit of a component is
the larger of its operations at the rate of a large matrix product, and of its weights at the rate
of a copy; both rates are measured in the same run. The memory read has none. Without `live_pose`,
and with poses from TF, the package leaves out the provisional head, which the plain schedule
always runs: "refined only".
"""
from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from plain_schedule import PlainSchedule
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from spann3r_ros.evaluation.held_out_rooms import HeldOutConfig, Turn, draw_sequences, unseen_rooms
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.memory_manager import scale_memory_budget
from spann3r_ros.model.checkpoint import load_model
from spann3r_ros.model.config import MemoryConfig, Spann3RConfig
from spann3r_ros.model.heads import DensePrediction
from spann3r_ros.model.inference import compile_blocks, prepare
from spann3r_ros.model.memory import MemoryEntry, SpatialMemory
from spann3r_ros.model.spann3r import Spann3R, StepOutput, StreamState

# The first steps are of another kind: nothing to read, nothing to refine.
WARM_UP = 3
LAYOUTS = {'fp32': prepare, 'int8': lambda model: prepare(model, 'int8'),
           'bf16': lambda model: prepare(model, 'bf16'),
           'compiled': lambda model: compile_blocks(prepare(model, lay_out=False))}
BUNDLED = Path(__file__).parents[1] / 'models/rooms_small.safetensors'
MEMORY_TOKENS = (0, 1000, 4000, 10_000, 20_000)
MEBI = 2**20


@dataclass
class Variant:
    """One way to run the network: a step, and what its parts took."""

    name: str
    step: Callable[[Tensor], StepOutput]
    clocks: dict[str, list[float]]

    def run(self, image: Tensor) -> StepOutput:
        """Take an image and note the time."""
        for times in self.clocks.values():
            times.append(0.0)
        began = time.perf_counter()
        output = self.step(image)
        self.clocks['step'][-1] = time.perf_counter() - began
        return output


def parts(model: Spann3R, reader: Spann3R | PlainSchedule) -> dict[str, list[tuple[object, str]]]:
    """Return the methods that make up a step, by the name of the component."""
    return {'image encoder': [(model.dust3r, 'encode')], 'memory read': [(reader, 'fuse')],
            'decoders': [(model.dust3r, 'decode')],
            'refined head': [(model, 'predict_reference')],
            'provisional head': [(model, 'predict_target')],
            'key and query': [(model, 'key'), (model, 'query')],
            'value encoder': [(model, 'encode_value')]}


def watch(model: Spann3R, reader: Spann3R | PlainSchedule,
          clocks: dict[str, list[float]]) -> None:
    """Let the parts of a model add their time to the last entry of their clock."""
    def clocked(method: Callable, times: list[float]) -> Callable:
        def timed(*arguments: object) -> object:
            began = time.perf_counter()
            result = method(*arguments)
            times[-1] += time.perf_counter() - began
            return result
        return timed

    for name, methods in parts(model, reader).items():
        for owner, method in methods:
            setattr(owner, method, clocked(getattr(owner, method), clocks[name]))


def build(name: str) -> Spann3R:
    """Return the bundled network, or one of the official size with random weights."""
    if name == 'bundled':
        return load_model(BUNDLED)
    torch.manual_seed(0)
    return Spann3R(Spann3RConfig()).eval().requires_grad_(False)


def variants(name: str, memory: MemoryConfig, layouts: list[str]) -> list[Variant]:
    """Return the plain schedule and the package with each layout, each with its own weights."""
    made = []
    for label in ('plain', *layouts):
        model = build(name)
        size = (model.config.image_height, model.config.image_width)
        clocks: dict[str, list[float]] = defaultdict(list, step=[])
        if label == 'plain':
            schedule = PlainSchedule(model, memory)
            watch(model, schedule, clocks)
            step = schedule.step
        else:
            watch(LAYOUTS[label](model), model, clocks)
            state = model.start(*size, memory)
            step = _stepping(model, state)
        made.append(Variant(label, step, clocks))
    return made


def _stepping(model: Spann3R, state: StreamState) -> Callable[[Tensor], StepOutput]:
    return lambda image: model.step(state, image, provisional=True)


def images(size: int, frames: int) -> list[Tensor]:
    """Return a walk through an unseen room as network inputs."""
    rooms = unseen_rooms(HeldOutConfig(), size)
    sequence = next(iter(draw_sequences(rooms, 1, Turn(frames))))
    return [torch.from_numpy(image).permute(2, 0, 1)[None].float().div(127.5).sub(1.0)
            for image in sequence.images]


def count_operations(model: Spann3R, image: Tensor) -> dict[str, float]:
    """Return the operations (two per multiplication) of each component but the memory read."""
    counted: dict[str, float] = defaultdict(float)

    def counting(method: Callable, part: str) -> Callable:
        def run(*arguments: object) -> object:
            with FlopCounterMode(display=False) as counter:
                result = method(*arguments)
            counted[part] += counter.get_total_flops()
            return result
        return run

    step = _stepping(model, model.start(*image.shape[-2:], MemoryConfig()))
    step(image)
    for part, methods in parts(model, model).items():
        for owner, method in methods:
            setattr(owner, method, counting(getattr(owner, method), part))
    step(image)
    del counted['memory read']  # nothing is in memory yet
    return dict(counted)


def weight_bytes(model: Spann3R) -> dict[str, int]:
    """Return the bytes of weights that each component reads."""
    def total(*modules: torch.nn.Module) -> int:
        return sum(item.nbytes for module in modules for item in module.parameters())

    net = model.dust3r
    return {'image encoder': total(net.patch_embed, net.enc_blocks),
            'decoders': total(net.decoder_embed, net.dec_blocks, net.dec_blocks2),
            'refined head': total(net.downstream_head1),
            'provisional head': total(net.downstream_head2),
            'key and query': total(model.attn_head_1, model.attn_head_2),
            'value encoder': total(model.value_encoder, model.value_out, model.pos_patch_embed)}


def machine_rates() -> dict[str, float]:
    """Return operations per second of fp32 and 8-bit products, and bytes per second of a copy."""
    side = 2048
    left, right = torch.rand(side, side), torch.rand(side, side)
    small = torch.randint(-127, 127, (side, side), dtype=torch.int8)
    source = torch.zeros(64 * MEBI)
    target = torch.empty_like(source)
    operations = 2.0 * side**3
    return {'fp32': operations / _best(lambda: left @ right),
            'int8': operations / _best(lambda: torch._int_mm(small, small)),
            'bytes': 2.0 * source.nbytes / _best(lambda: target.copy_(source))}


def _best(action: Callable[[], object]) -> float:
    times = []
    for _ in range(8):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


def deviation(prediction: DensePrediction, truth: DensePrediction) -> float:
    """Return the median distance of points, as a share of their distance from the origin."""
    off = (prediction.points - truth.points).norm(dim=-1)
    return float((off / truth.points.norm(dim=-1)).median())


def measure(name: str, frames: int, layouts: list[str]) -> dict:
    """Run all variants over the same images and return what they took, in seconds."""
    model = build(name)
    config, weights = model.config, weight_bytes(model)
    tokens = math.prod(config.grid(config.image_height, config.image_width))
    memory = scale_memory_budget(MemoryConfig(similarity_threshold=1.0), tokens)
    walk = images(config.image_height, frames)
    operations = count_operations(model, walk[0])
    del model
    runs = variants(name, memory, layouts)
    off: dict[str, list[float]] = defaultdict(list)
    for image in tqdm(walk, name, unit='frame'):
        outputs = [run.run(image) for run in runs]
        for run, output in zip(runs, outputs, strict=True):
            if output.refined is not None:
                off[run.name].append(deviation(output.refined, outputs[0].refined))
    rates = machine_rates()
    result = {'network': name, 'frames': frames, 'rates': rates, 'operations': operations,
              'weight_bytes': weights, 'variants': {}}
    plain = np.array(runs[0].clocks['step'])[WARM_UP:]
    for run in runs:
        times = {part: np.array(run.clocks[part])[WARM_UP:] for part in run.clocks}
        refined_only = times['step'] - times['provisional head']
        result['variants'][run.name] = {
            'sec': {part: float(np.median(one)) for part, one in times.items()},
            'spread_sec': [float(value) for value in np.percentile(times['step'], (10, 90))],
            'speedup': float(np.median(plain / times['step'])),
            'speedup_refined_only': float(np.median(plain / refined_only)),
            'deviation': float(np.median(off[run.name])),
            'deviation_last': off[run.name][-1]}
    result['limit_sec'] = {part: max(operations[part] / rates['fp32'],
                                     weights[part] / rates['bytes']) for part in operations}
    return result


def measure_reads(width: int, queries: int) -> dict[int, float]:
    """Return the seconds of a memory read by the tokens in memory."""
    memory = SpatialMemory(MemoryConfig(long_term_tokens=max(MEMORY_TOKENS)), queries, width)
    query, took = torch.rand(queries, width), {}
    entry = MemoryEntry(*torch.rand(3, queries, width))
    for tokens in MEMORY_TOKENS:
        while memory.tokens < tokens:
            memory.write(None, entry)
        if tokens:
            took[memory.tokens] = _best(lambda: memory.read(query))
    return took


def show(result: dict) -> None:
    """Print one network's table."""
    runs, limit = result['variants'], result['limit_sec']
    header = ['milliseconds per frame', *runs, 'limit fp32']
    rows = [[part, *(f"{1e3 * run['sec'][part]:.1f}" for run in runs.values()),
             f'{1e3 * limit[part]:.1f}' if part in limit else '']
            for part in runs['plain']['sec'] if part != 'step']
    rows.append(['whole step', *(f"{1e3 * run['sec']['step']:.1f}" for run in runs.values()),
                 f'{1e3 * sum(limit.values()):.1f}'])
    rows.append(['10 % to 90 %', *('{:.0f}-{:.0f}'.format(*(1e3 * item for item in
                                                           run['spread_sec']))
                                   for run in runs.values()), ''])
    rows.append(['times as fast as plain', *(f"{run['speedup']:.2f}" for run in runs.values()),
                 ''])
    rows.append(['the same, refined only',
                 *(f"{run['speedup_refined_only']:.2f}" for run in runs.values()), ''])
    rows.append(['deviation, median', *(f"{run['deviation']:.1e}" for run in runs.values()), ''])
    rows.append(['deviation, last frame',
                 *(f"{run['deviation_last']:.1e}" for run in runs.values()), ''])
    rates = result['rates']
    print(f"\n{result['network']}: {result['frames']} frames; fp32 {rates['fp32'] / 1e9:.0f} and "
          f"int8 {rates['int8'] / 1e9:.0f} billion operations/s, {rates['bytes'] / 1e9:.1f} GB/s\n"
          + format_table(header, rows))


def main() -> int:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--networks', nargs='+', default=['bundled', 'full'],
                        choices=['bundled', 'full'])
    parser.add_argument('--layouts', nargs='+', default=['fp32', 'int8'], choices=list(LAYOUTS))
    parser.add_argument('--frames', type=int, default=20)
    parser.add_argument('--output', type=Path, default=Path('output/network.json'))
    arguments = parser.parse_args()
    results = [measure(name, arguments.frames, arguments.layouts)
               for name in arguments.networks]
    for result in results:
        show(result)
    config = Spann3RConfig()
    reads = measure_reads(config.encoder_width, 196)
    print('\nmemory read of the official size\n' + format_table(
        ['tokens', 'ms'], [[str(tokens), f'{1e3 * sec:.1f}'] for tokens, sec in reads.items()]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({
        'date': date.today().isoformat(), 'machine': platform.processor() or platform.machine(),
        'cores': os.cpu_count(), 'threads': torch.get_num_threads(), 'results': results,
        'read_sec': reads}, indent=1) + '\n')
    print(f'wrote {arguments.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
