# SPDX-License-Identifier: Apache-2.0
"""What the mapper loses where other programs use the processor: `make bench-shared`.

The bundled network maps the images of the bundled bag, forwards and backwards, beside 0, 1 and 2
busy processes of the same priority, then at the lowest priority beside 2. Each measurement is of
three processes in turn, so that all see the same machine: the mapper with one thread a core that
spins while it waits (`spinning`), the mapper as the node runs it, and, as a control, a counting
loop with as many threads. A busy processor takes from the loop only its share of the processor.
The goal is that the mapper keeps as much of its speed as the loop. `--full-size` measures steps of
a network of the official size with random weights instead (6 GiB).
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from threading import Thread

from busy_processes import busy
from tqdm import tqdm

from spann3r_ros.core.files import write_json
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.networks.threads import wait_without_spinning

BAG = Path(__file__).parents[1] / 'bags' / 'demo_room'
PERIOD_NS = 100_000_000
WARM_UP_IMAGES = 3
NORMAL, LOWEST = 0, 19
CONDITIONS = (0, NORMAL), (1, NORMAL), (2, NORMAL), (2, LOWEST)
QUICK = (0, NORMAL), (2, NORMAL)


@dataclass(frozen=True)
class Speed:
    """Images, or rounds of the loop, in wall and processor seconds."""

    rounds: int
    wall_sec: float
    processor_sec: float

    @property
    def rate(self) -> float:
        """Return the rounds per second."""
        return self.rounds / self.wall_sec


class Subject:
    """A process that works for a while when it is asked to; the context ends it."""

    def __init__(self, kind: str, threads: int, full_size: bool) -> None:
        environment = {name: value for name, value in os.environ.items()
                       if name not in ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')}
        self._process = subprocess.Popen(
            [sys.executable, __file__, '--subject', kind, '--threads', str(threads),
             *(['--full-size'] if full_size else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.threads = int(self._process.stdout.readline())

    def work(self, seconds: float) -> Speed:
        """Let it work at least so long, and finish the image in progress."""
        self._process.stdin.write(f'{seconds}\n')
        self._process.stdin.flush()
        return Speed(**json.loads(self._process.stdout.readline()))

    def lower(self) -> None:
        """Give it the lowest priority."""
        for thread in os.listdir(f'/proc/{self._process.pid}/task'):
            os.setpriority(os.PRIO_PROCESS, int(thread), LOWEST)

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def serve(kind: str, threads: int, full_size: bool) -> None:
    """Work as often as asked to on standard input."""
    work: Callable[[], int | None]
    if kind == 'control':
        print(threads, flush=True)
        work = partial(count, threads)
    else:
        if kind == 'ours':
            wait_without_spinning()
        work, used = open_steps(threads) if full_size else open_mapper(threads)
        for _ in range(WARM_UP_IMAGES):
            work()
        print(used, flush=True)
    for line in sys.stdin:
        seconds, rounds = float(line), 0
        wall, processor = time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < seconds:
            rounds += work() or 1
        print(json.dumps(asdict(Speed(rounds, time.perf_counter() - wall,
                                      time.process_time() - processor))), flush=True)


def count(threads: int) -> int:
    """Hash blocks in threads, which do not hold Python's lock then; return how many blocks."""
    import hashlib
    block, done = bytes(2**20), []

    def hash_block() -> None:
        hashlib.sha256(block).digest()
        done.append(1)

    others = [Thread(target=hash_block) for _ in range(threads - 1)]
    for other in others:
        other.start()
    hash_block()
    for other in others:
        other.join()
    return len(done)


def open_mapper(threads: int) -> tuple[Callable[[], None], int]:
    """Return a function that maps the next image, and the number of threads."""
    from spann3r_ros.core.encodings import to_rgb
    from spann3r_ros.core.network import Compute
    from spann3r_ros.core.types import Frame
    from spann3r_ros.datasets.bags import CameraBag, TopicNames
    from spann3r_ros.evaluation.recorded_runs import EVERY_FRAME
    from spann3r_ros.mapping.mapper import Mapper
    from spann3r_ros.mapping.mapper_config import MapperConfig
    from spann3r_ros.networks.registry import open_network, resolve_checkpoint
    with CameraBag(BAG, TopicNames()) as bag:
        images = [to_rgb(message) for role, _, message in bag.messages() if role == 'image']
    images += images[-2:0:-1]
    mapper = Mapper(open_network(resolve_checkpoint(''), compute=Compute(
        'cpu', threads=threads)), MapperConfig(keyframes=EVERY_FRAME))
    index = 0

    def step() -> None:
        nonlocal index
        index += 1
        mapper.process(Frame(index * PERIOD_NS, 'camera', images[index % len(images)]))
    return step, mapper.status().memory.status.threads


def open_steps(threads: int) -> tuple[Callable[[], None], int]:
    """Return a function that runs a step of a large network, and the number of threads."""
    import numpy as np
    import torch

    from spann3r_ros.networks.spann3r.config import Spann3RConfig
    from spann3r_ros.networks.spann3r.fast.inference import prepare
    from spann3r_ros.networks.spann3r.spann3r import Spann3R
    from spann3r_ros.networks.spann3r.spann3r_network import Spann3RNetwork
    from spann3r_ros.networks.threads import set_threads
    torch.manual_seed(0)
    model = Spann3R(Spann3RConfig())
    set_threads(threads, sum(item.numel() for item in model.parameters()))
    model.identity = 'random'
    network = Spann3RNetwork(prepare(model.eval().requires_grad_(False), 'fp32'))
    draw, index = np.random.default_rng(0), 0

    def step() -> None:
        nonlocal index
        index += 1
        network.step(draw.integers(0, 256, (*network.input_size(1.0), 3), np.uint8), index)
    return step, torch.get_num_threads()


def measure(subjects: dict[str, Subject], others: int, seconds: float,
            repeats: int) -> dict[str, list[Speed]]:
    """Return the speeds of all subjects, each measured in turn, beside busy processes."""
    speeds: dict[str, list[Speed]] = {name: [] for name in subjects}
    with busy(others):
        for _ in range(repeats):
            for name, subject in subjects.items():
                speeds[name].append(subject.work(seconds))
    return speeds


def row(name: str, speeds: dict[str, list[Speed]], alone: dict[str, list[Speed]]) -> list[str]:
    """Return a line of the table: speeds, processor time, and what is kept of the speed alone."""
    rates, kept = {}, {}
    for subject, found in speeds.items():
        rates[subject] = statistics.median(one.rate for one in found)
        kept[subject] = rates[subject] / statistics.median(one.rate for one in alone[subject])
    cost = {subject: 1e3 * sum(one.processor_sec for one in found) / sum(
        one.rounds for one in found) for subject, found in speeds.items()}
    return [name, f'{rates["spinning"]:.2f}', f'{rates["ours"]:.2f}',
            f'{cost["spinning"]:.0f}', f'{cost["ours"]:.0f}', f'{kept["spinning"]:.0%}',
            f'{kept["ours"]:.0%}', f'{kept["control"]:.0%}']


def main() -> int:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=1.0, help='of each measurement')
    parser.add_argument('--repeats', type=int, default=6)
    parser.add_argument('--quick', action='store_true',
                        help='only beside 0 and 2 busy processes of the same priority')
    parser.add_argument('--full-size', action='store_true')
    parser.add_argument('--output', type=Path, default=Path('output/shared_processor.json'))
    parser.add_argument('--subject', choices=('spinning', 'ours', 'control'),
                        help=argparse.SUPPRESS)
    parser.add_argument('--threads', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.subject:
        serve(args.subject, args.threads, args.full_size)
        return 0
    cores = len(os.sched_getaffinity(0))
    rows, results = [], {}
    with ExitStack() as stack:
        ours = stack.enter_context(Subject('ours', 0, args.full_size))
        subjects = {
            'spinning': stack.enter_context(Subject('spinning', cores, args.full_size)),
            'ours': ours,
            'control': stack.enter_context(Subject('control', ours.threads, False))}
        alone: dict[str, list[Speed]] = {}
        for others, nice in tqdm(QUICK if args.quick else CONDITIONS, 'conditions'):
            if nice:
                for subject in subjects.values():
                    subject.lower()
            name = f'{others} busy' + (', lowest priority' if nice else '')
            speeds = measure(subjects, others, args.seconds, args.repeats)
            alone = alone or speeds
            rows.append(row(name, speeds, alone))
            results[name] = {subject: [asdict(one) for one in found]
                             for subject, found in speeds.items()}
    print(format_table(
        ['', 'images/s spinning', f'ours, {ours.threads} threads', 'CPU ms spinning', 'ours',
         'kept: spinning', 'ours', 'loop'], rows))
    write_json(args.output, {'date': date.today().isoformat(), 'machine': platform.processor(),
                             'cores': cores,
                             'threads': {name: one.threads for name, one in subjects.items()},
                             'results': results})
    return 0


if __name__ == '__main__':
    sys.exit(main())
