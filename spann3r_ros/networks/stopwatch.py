# SPDX-License-Identifier: Apache-2.0
"""Times of calls and rates of the machine, on a CPU or a CUDA device."""
from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

MEBI = 2**20
LONG_SEC = 0.1


class Stopwatch:
    """Times calls by name, in seconds; on CUDA by events, which are read once all is done."""

    def __init__(self, device: torch.device) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self._device = device
        self._laps: list[tuple[str, object, object]] = []

    def mark(self) -> object:
        """Return the present moment."""
        if self._device.type != 'cuda':
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, name: str, began: object) -> None:
        """Count the time since a moment for a name."""
        self._laps.append((name, began, self.mark()))

    def next_step(self) -> None:
        """Add up what was counted since the last step."""
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)
        sums: dict[str, float] = defaultdict(float)
        for name, began, ended in self._laps:
            sums[name] += (ended - began if self._device.type != 'cuda'
                           else 1e-3 * began.elapsed_time(ended))
        for name, seconds in sums.items():
            self.times[name].append(seconds)
        self._laps.clear()


def machine_rates(device: torch.device, side: int | None = None) -> dict[str, float]:
    """Return operations a second of products of each kind, bytes a second of a copy.

    The kinds are 'fp32' and 'bf16', on a CPU 'int8' besides, on CUDA 'tf32'. Leaves CUDA's
    rounding of products switched off. `side` is that of the largest matrices; None: as large as
    the device needs.
    """
    side = side or (2048 if device.type == 'cpu' else 8192)
    left, right = torch.rand(2, side, side, device=device)
    source = torch.zeros(64 * MEBI, device=device)
    target = torch.empty_like(source)

    def rate(left: Tensor, right: Tensor,
             product: Callable[[Tensor, Tensor], Tensor] = torch.matmul) -> float:
        # A CPU that emulates bfloat16 would take a minute for the largest.
        for part in (side // 8, side // 4, side // 2, side):
            pair = [matrix[:part, :part].contiguous() for matrix in (left, right)]
            seconds = best_time(lambda pair=pair: product(*pair), device)
            if seconds > LONG_SEC:
                break
        return 2.0 * part**3 / seconds
    rates = {'bytes': 2.0 * source.nbytes / best_time(lambda: target.copy_(source), device),
             'bf16': rate(left.bfloat16(), right.bfloat16())}
    if device.type == 'cpu':
        small = torch.randint(-127, 127, (side, side), dtype=torch.int8)
        rates['int8'] = rate(small, small, torch._int_mm)
    else:
        round_products(True)
        rates['tf32'] = rate(left, right)
    round_products(False)
    return {'fp32': rate(left, right), **rates}


def round_products(rounded: bool) -> None:
    """Let CUDA multiply float32 in tf32, or not: a setting of the whole process."""
    torch.set_float32_matmul_precision('high' if rounded else 'highest')
    torch.backends.cudnn.allow_tf32 = rounded


def median_sec(action: Callable[[], object], device: torch.device, calls: int = 20) -> float:
    """Return the median seconds of some calls after two that do not count."""
    return statistics.median(_times(action, device, calls + 2)[2:])


def best_time(action: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the quickest of several calls."""
    return min(_times(action, device, 8))


def _times(action: Callable[[], object], device: torch.device, calls: int) -> list[float]:
    watch = Stopwatch(device)
    for _ in range(calls):
        began = watch.mark()
        action()
        watch.lap('action', began)
        watch.next_step()
    return watch.times['action']
