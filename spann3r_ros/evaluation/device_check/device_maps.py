# SPDX-License-Identifier: Apache-2.0
"""The mapper on a device, and what it does when the device's memory runs out."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spann3r_ros.core.network import Compute, Estimate, Network
from spann3r_ros.core.types import DeviceMemoryError
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    ASPECT,
    HeldOutConfig,
    Sequence,
    Turn,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.evaluation.measures import trajectories
from spann3r_ros.evaluation.recorded_runs import (
    EVERY_FRAME,
    RecordingNetwork,
    in_first_camera,
    poses_of,
    to_frames,
)
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.networks.devices import resolve_device
from spann3r_ros.networks.registry import open_network, resolve_checkpoint
from spann3r_ros.pipeline.runner import Collector, run_frames

from .check_rows import Row
from .part_process import CheckSettings, Emit
from .speeds import MEBI, deviation

FRAMES, REHEARSED_FRAMES, QUICK_FRAMES = 200, 60, 12
STEP_DEG = 1.8
COMPARED_FRAMES = 10
# Between a device with tf32 and a CPU, as a share of the points' distance.
CPU_DEVIATION = 0.05
LEAST_POSED = 0.9
# A library may allocate another workspace.
MOST_GROWN = 64 * MEBI
SHORT_FROM, SHORT_FRAMES, SHORT_TOTAL = 8, 3, 24


@dataclass(frozen=True)
class Mapped:
    """A run of the mapper: its updates and failures, the estimates, voxels and seconds."""

    collector: Collector
    estimates: list[Estimate]
    voxels: int
    recoveries: int
    sec: float


def map_sequence(network: Network, sequence: Sequence) -> Mapped:
    """Map a sequence by the runner of node and replay."""
    recorder = RecordingNetwork(network)
    mapper = Mapper(recorder, MapperConfig(keyframes=EVERY_FRAME))
    last = []

    def observe() -> None:
        status = mapper.status()
        last[:] = [status.voxels, status.memory.recoveries]
    began = time.perf_counter()
    collector = run_frames(mapper, to_frames(sequence.images, sequence.intrinsics), observe)
    return Mapped(collector, recorder.estimates, *last, time.perf_counter() - began)


def check_mapper(settings: CheckSettings, emit: Emit) -> None:
    """Map a full turn in an unseen room, step by step and, on CUDA, by a graph."""
    checkpoint = resolve_checkpoint('')
    frames = FRAMES if settings.device == 'cuda' else REHEARSED_FRAMES
    computes = {'step by step': Compute(settings.device)}
    if settings.device == 'cuda':
        computes['cuda_graph'] = Compute(settings.device, cuda_graph=True)
    size = open_network(checkpoint, compute=Compute('cpu')).input_size(ASPECT)
    sequence = draw(QUICK_FRAMES if settings.quick else frames, size)
    expected = map_sequence(open_network(checkpoint, compute=Compute('cpu')),
                          shortened(sequence, COMPARED_FRAMES))
    for name, compute in computes.items():
        with warnings_of('spann3r_ros.networks') as warnings:
            mapped = map_sequence(open_network(checkpoint, compute=compute), sequence)
        emit(mapper_row(name, mapped, expected, sequence, warnings))


def mapper_row(name: str, mapped: Mapped, expected: Mapped, sequence: Sequence,
               warnings: list[str]) -> Row:
    """Return the row of a run, beside a run of its first frames on the CPU."""
    frames = len(sequence.images)
    keyframes = in_first_camera(mapped.collector.updates)
    poses, stamps = poses_of(keyframes)
    errors = trajectories.path_errors(poses, sequence.poses[stamps])
    # The last estimate on the CPU ends its sequence, which goes on here.
    off = max(deviation(*(np.asarray(one.pointmap.points) for one in pair))
              for pair in zip(mapped.estimates[:COMPARED_FRAMES - 1], expected.estimates,
                              strict=False))
    wrong = [*warnings]
    if mapped.collector.failures:
        wrong.append(f'{mapped.collector.failures[0][1]}')
    if len(poses) < LEAST_POSED * frames:
        wrong.append(f'expected poses of {LEAST_POSED:.0%} of {frames} frames')
    if not off < CPU_DEVIATION:
        wrong.append(f'expected points within {CPU_DEVIATION:g} of those of the CPU')
    return Row('mapper', name, 'failed' if wrong else 'passed', {
        'frames': frames, 'frames_a_sec': frames / mapped.sec,
        'failures': len(mapped.collector.failures), 'keyframes': len(keyframes),
        'with_pose': len(poses), 'voxels': mapped.voxels,
        'ATE_share_of_path': errors.trajectory_error / errors.path_length,
        'off_CPU': off}, '; '.join(wrong))


def draw(frames: int, size: tuple[int, int]) -> Sequence:
    """Return a turn through an unseen room."""
    return next(iter(draw_sequences(unseen_rooms(HeldOutConfig(), size), 1,
                                    Turn(frames, STEP_DEG))))


def shortened(sequence: Sequence, frames: int) -> Sequence:
    """Return the beginning of a sequence."""
    return Sequence(sequence.images[:frames], sequence.points[:frames], sequence.poses[:frames],
                    sequence.intrinsics, sequence.mean_side)


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """Collect the warnings of a logger: for example that a network runs without its graph."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger(name), Keep(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def check_out_of_memory(settings: CheckSettings, emit: Emit) -> None:
    """Take away the device's memory for some frames; the mapper has to recover."""
    device = resolve_device(settings.device)
    checkpoint = resolve_checkpoint('')
    network = open_network(checkpoint, compute=Compute(settings.device))
    sequence = draw(SHORT_TOTAL, network.input_size(ASPECT))
    # What lasts is allocated by the first steps.
    map_sequence(network, shortened(sequence, SHORT_FROM))
    held = allocated(device)
    short = ShortNetwork(network, make_shortage(device))
    mapped = map_sequence(short, sequence)
    failures = mapped.collector.failures
    posed = poses_of(in_first_camera(mapped.collector.updates))[1]
    window = range(SHORT_FROM, SHORT_FROM + SHORT_FRAMES)
    wrong = []
    if not failures or not all(isinstance(error, DeviceMemoryError) for _, error in failures):
        wrong.append('expected DeviceMemoryErrors, got ' + (', '.join(
            f'{type(error).__name__}: {error}' for _, error in failures) or 'none'))
    if not {frame.stamp_ns for frame, _ in failures} <= {*window}:
        wrong.append(f'expected failures of frames {window[0]} to {window[-1]}, got those of '
                     f'{[frame.stamp_ns for frame, _ in failures]}')
    if not mapped.recoveries:
        wrong.append('expected a recovery')
    if SHORT_TOTAL - 1 not in posed:
        wrong.append('expected a pose of the last frame')
    grown = allocated(device) - held
    if grown > MOST_GROWN:
        wrong.append(f'expected at most {MOST_GROWN} bytes more than before, got {grown}')
    emit(Row('out-of-memory', 'mapper', 'failed' if wrong else 'passed', {
        'frames': SHORT_TOTAL, 'short_frames': SHORT_FRAMES, 'refused': len(failures),
        'recoveries': mapped.recoveries, 'with_pose': len(posed), 'bytes_more': grown},
        '; '.join(wrong)))


def allocated(device: torch.device) -> int:
    """Return the bytes that torch has allocated on a device; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == 'cuda' else 0


class ShortNetwork(RecordingNetwork):
    """A network whose device has no memory left from a frame on, for some frames."""

    def __init__(self, network: Network, shortage: CudaShortage | CpuShortage) -> None:
        super().__init__(network)
        self._shortage = shortage
        self._steps = 0

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Run a step, in the shortage if it is one of its frames."""
        self._steps += 1
        if SHORT_FROM < self._steps <= SHORT_FROM + SHORT_FRAMES:
            self._shortage.begin()
        else:
            self._shortage.end()
        return self._in_shortage(lambda: super(ShortNetwork, self).step(image, image_id))

    def provisional(self) -> Estimate | None:
        """Return the network's provisional estimate."""
        return self._in_shortage(super().provisional)

    def reset(self) -> None:
        """Reset the network."""
        self._in_shortage(super().reset)

    def _in_shortage(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401
        with self._shortage.applied():
            return call()


class CudaShortage:
    """Limits torch's allocator to what it holds, and fills what is free of that."""

    LARGEST, SMALLEST = 2**30, 2**9

    def __init__(self) -> None:
        # The setter of the limit takes no device without an index.
        self._device = torch.cuda.current_device()
        self._ballast: list[torch.Tensor] = []
        self._limited = False

    def begin(self) -> None:
        """Leave no memory; again: leave none of what was freed since."""
        if not self._limited:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(
                torch.cuda.memory_reserved(self._device) / total, self._device)
            self._limited = True
        size = self.LARGEST
        while size >= self.SMALLEST:
            try:
                self._ballast.append(torch.empty(size, dtype=torch.uint8, device=self._device))
            except torch.OutOfMemoryError:
                size //= 2

    def end(self) -> None:
        """Give the memory back."""
        if self._limited:
            self._ballast.clear()
            torch.cuda.set_per_process_memory_fraction(1.0, self._device)
            self._limited = False

    def applied(self) -> nullcontext:
        """Return a context of the shortage for the calling thread: it holds in any."""
        return nullcontext()


class CpuShortage:
    """Lets each allocation of torch in the calling thread fail as on a device."""

    def __init__(self) -> None:
        self._active = False

    def begin(self) -> None:
        """Begin the shortage."""
        self._active = True

    def end(self) -> None:
        """End the shortage."""
        self._active = False

    def applied(self) -> TorchDispatchMode | nullcontext:
        """Return a context of the shortage for the calling thread."""
        return _NoMemory() if self._active else nullcontext()


class _NoMemory(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (),  # noqa: ANN401
                           kwargs: dict | None = None) -> Any:  # noqa: ANN401
        raise torch.OutOfMemoryError(f'no memory is left for {function}: it was taken away')


def make_shortage(device: torch.device) -> CudaShortage | CpuShortage:
    """Return the shortage for a device."""
    return CudaShortage() if device.type == 'cuda' else CpuShortage()
