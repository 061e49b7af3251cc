# SPDX-License-Identifier: Apache-2.0
"""The parts of the device check, in the order of their value."""
from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch._dynamo

from spann3r_ros.networks.checkable import Checks
from spann3r_ros.networks.registry import network_kinds

from .check_rows import Row
from .device_maps import check_mapper, check_out_of_memory, warnings_of
from .part_process import CheckSettings, Emit, Part, failure
from .speeds import Length, compare_layouts

QUICK_RECORDINGS = 3
# Goals for an H100 or H200; all times with both predictions.
FASTER_THAN_PLAIN = 4.0
FRAME_MS = 4.0
TIMES_FLOOR = 5.0
READ_SHARE = 0.1
# A layout that returns no numbers, or those of another network, is beyond it.
DEVIATION_LIMIT = 0.2


def checked_networks() -> Iterator[tuple[str, Checks]]:
    """Yield the registered kinds of networks that have checks, by name."""
    for name, kind in network_kinds().items():
        if kind.checks is not None:
            yield name, kind.checks()


def check_recorded(settings: CheckSettings, emit: Emit) -> None:
    """Replay the recorded numbers in float32, the small ones first."""
    folder = settings.recordings
    if folder is None or not any(Path(folder).glob('*.npz')):
        emit(Row('recorded', 'recordings', 'failed', detail=(
            f'no .npz recordings in {folder}: name a folder by --recordings or SPANN3R_GOLDENS')))
        return
    device = torch.device(settings.device)
    for kind, checks in checked_networks():
        paths = list(checks.recordings(folder).items())
        for name, path in paths[:QUICK_RECORDINGS] if settings.quick else paths:
            began = time.monotonic()
            try:
                found = checks.replay(path, device)
            # The other recordings still have to be replayed.
            except Exception as error:
                emit(failure('recorded', f'{kind} {name}', error))
                continue
            took = time.monotonic() - began
            for layout, deviations in found.items():
                worst = max(deviations, key=lambda item: _share_of_limit(item.worst, item.limit))
                wrong = [str(item) for item in deviations if not item.acceptable]
                emit(Row('recorded', f'{kind} {name}, {layout}', 'failed' if wrong else 'passed',
                         {'arrays': len(deviations), 'worst': worst.worst, 'limit': worst.limit,
                          'sec': took / len(found)}, '; '.join(wrong) or worst.name))


def _share_of_limit(worst: float, limit: float) -> float:
    if worst == 0.0:
        return 0.0
    return worst / limit if limit else float('inf')


def check_speed(settings: CheckSettings, emit: Emit) -> None:
    """Time the layouts of each network, the plain schedule among them."""
    device = torch.device(settings.device)
    for kind, checks in checked_networks():
        for index, (network, size) in enumerate(checks.networks(_rehearses(settings)).items()):
            figures = compare_layouts(checks, network, size, checks.layouts(device), device,
                                      _length(settings))
            _emit_layouts('speed', f'{kind} {network}', figures, emit)
            if index == 0:
                for row in goals('speed', f'{kind} {network}', checks.PLAIN, figures):
                    emit(row)
            if settings.quick:
                break


def check_deviation(settings: CheckSettings, emit: Emit) -> None:
    """Measure how far the layouts of trained networks deviate over 50 frames."""
    device = torch.device(settings.device)
    frames = 5 if settings.quick else 50
    for kind, checks in checked_networks():
        for network, size in checks.trained().items():
            figures = compare_layouts(checks, network, size, checks.layouts(device), device,
                                      Length(frames // 5, frames - frames // 5,
                                             quick=settings.quick))
            _emit_layouts('deviation', f'{kind} {network}', figures, emit)


def check_compiled(settings: CheckSettings, emit: Emit) -> None:
    """Time compiled layouts and their deviation, each beside the plain schedule."""
    device = torch.device(settings.device)
    for kind, checks in checked_networks():
        # The trained networks second: what they deviate is of more use than another size.
        first, *others = checks.networks(_rehearses(settings)).items()
        networks = [first, *checks.trained().items(), *others]
        for layout in checks.compiled_layouts(device):
            # On a CPU compiling takes a minute or more.
            for network, size in networks[:1] if _rehearses(settings) else networks:
                torch._dynamo.reset()
                counters = torch._dynamo.utils.counters
                counters.clear()
                began = time.monotonic()
                with warnings_of('torch._dynamo') as warnings:
                    figures = compare_layouts(checks, network, size, (checks.PLAIN, layout),
                                              device, _length(settings))[layout]
                graphs = counters['stats']['unique_graphs']
                # What cannot be compiled runs uncompiled, which must not pass for compiled.
                refused = [text for text in warnings if "WON'T CONVERT" in text]
                wrong = [f'{len(refused)} functions ran uncompiled'] if refused else []
                if not graphs:
                    wrong.append('nothing was compiled')
                if not figures['deviation'] < DEVIATION_LIMIT:
                    wrong.append(f'expected a deviation below {DEVIATION_LIMIT:g}')
                emit(Row('compiled', f'{kind} {network}, {layout}',
                         'failed' if wrong else 'measured',
                         {**figures, 'graphs': graphs,
                          'graph_breaks': sum(counters['graph_break'].values()),
                          'total_sec': time.monotonic() - began},
                         '; '.join(wrong), ''.join(refused[:1])))


def goals(part: str, network: str, plain: str,
          figures: Mapping[str, Mapping[str, float]]) -> Iterator[Row]:
    """Yield a row for each goal, judged by the fastest layout."""
    layout = min((name for name in figures if name != plain),
                 key=lambda name: figures[name]['frame_ms'])
    best = figures[layout]
    for name, value, limit, met in (
            (f'at least {FASTER_THAN_PLAIN:g} times as fast as plain', best['times_plain'],
             FASTER_THAN_PLAIN, best['times_plain'] >= FASTER_THAN_PLAIN),
            (f'at most {FRAME_MS:g} ms a frame', best['frame_ms'], FRAME_MS,
             best['frame_ms'] <= FRAME_MS),
            (f'at most {TIMES_FLOOR:g} times the floor', best['times_floor'], TIMES_FLOOR,
             best['times_floor'] <= TIMES_FLOOR),
            (f'memory read below {READ_SHARE:.0%} of a step', best['read_share'], READ_SHARE,
             best['read_share'] < READ_SHARE)):
        yield Row(part, f'goal: {name}', 'met' if met else 'missed',
                  {'value': value, 'goal': limit}, f'{network}, {layout}')


def _emit_layouts(part: str, network: str, figures: Mapping[str, Mapping[str, float]],
                  emit: Emit) -> None:
    for layout, values in figures.items():
        good = values['deviation'] < DEVIATION_LIMIT
        emit(Row(part, f'{network}, {layout}', 'measured' if good else 'failed', values,
                 '' if good else f'expected a deviation below {DEVIATION_LIMIT:g}'))


def _rehearses(settings: CheckSettings) -> bool:
    return settings.device == 'cpu'


def _length(settings: CheckSettings) -> Length:
    if settings.quick:
        return Length(1, 4, quick=True)
    # 4,000 tokens are stored after 21 images; then the memory is full.
    return Length(6, 14) if _rehearses(settings) else Length(24, 40)


# The limits on CUDA add up to less than four minutes, those on a CPU to ten.
PARTS = {part.name: part for part in (
    Part('recorded', check_recorded, {'cuda': 50.0, 'cpu': 240.0}),
    Part('speed', check_speed, {'cuda': 60.0, 'cpu': 60.0}),
    Part('deviation', check_deviation, {'cuda': 25.0, 'cpu': 60.0}),
    Part('mapper', check_mapper, {'cuda': 30.0, 'cpu': 40.0}),
    Part('out-of-memory', check_out_of_memory, {'cuda': 15.0, 'cpu': 40.0}),
    Part('compiled', check_compiled, {'cuda': 50.0, 'cpu': 160.0}))}
