# SPDX-License-Identifier: Apache-2.0
"""What changes while a map grows: one sample for each processed frame, bounded in number."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from spann3r_ros.mapping.mapping_status import MappingStatus
from spann3r_ros.pipeline.worker import WorkerReport

MOST_SAMPLES = 2000
# Of several frames in one sample the largest value is kept; of the other numbers the newest one.
PEAKS = ('latency_sec', 'inference_sec')


@dataclass(frozen=True)
class Sample:
    """Numbers after a processed frame.

    `confidence` is the mean of the newest keyframe. `scale` is in metres per map unit, with its
    standard deviation; both are NaN while the map is not metric. `network_bytes` are those of the
    network and its memory, `keyframe_bytes` those of the keyframes that are kept.
    """

    stamp_ns: int
    latency_sec: float
    inference_sec: float
    confidence: float
    memory_tokens: int
    memory_capacity: int
    network_bytes: int
    keyframe_bytes: int
    voxels: int
    fragments: int
    loops: int
    loops_rejected: int
    scale: float
    scale_deviation: float


class RunRecord:
    """The samples of a run, at most `MOST_SAMPLES`: from then on a sample is of several frames."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._stride, self._in_last = 1, 1
        self._processed = 0

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[float]]) -> RunRecord:
        """Return the record with these `columns`."""
        record = cls()
        names = [one.name for one in fields(Sample)]
        record._samples = [Sample(*row) for row in zip(*(columns[name] for name in names),
                                                       strict=True)]
        return record

    def observe(self, report: WorkerReport, status: MappingStatus) -> None:
        """Add a sample if a frame was processed since the last call."""
        if report.accounts.processed > self._processed:
            self.add(to_sample(report, status))
        # An odd first frame counts as failed later.
        self._processed = report.accounts.processed

    def add(self, sample: Sample) -> None:
        """Add the sample of a processed frame."""
        if self._samples and self._in_last < self._stride:
            self._samples[-1] = _joined(self._samples[-1], sample)
            self._in_last += 1
            return
        if len(self._samples) == MOST_SAMPLES:
            self._samples = [_joined(*pair) for pair in zip(self._samples[::2],
                                                            self._samples[1::2], strict=True)]
            self._stride *= 2
        self._samples.append(sample)
        self._in_last = 1

    def columns(self) -> dict[str, list[float]]:
        """Return the samples as one list for each field, oldest first."""
        rows = [asdict(one) for one in self._samples]
        return {item.name: [row[item.name] for row in rows] for item in fields(Sample)}


def to_sample(report: WorkerReport, status: MappingStatus) -> Sample:
    """Return the sample of the newest processed frame."""
    memory, scale = status.memory.status, status.scale
    return Sample(
        report.stamp_ns, report.latency.last_sec, report.inference.last_sec, status.confidence,
        memory.tokens, memory.capacity_tokens, memory.device_bytes, status.kept.bytes,
        status.voxels, status.fragments, status.loops_accepted, status.loops_rejected,
        *metric_scale(scale.metric, scale.value, scale.variance))


def metric_scale(metric: bool, value: float, variance: float) -> tuple[float, float]:
    """Return scale and standard deviation of a sample; NaN unless metric.

    `variance` is that of the relative error, as in `Scale`.
    """
    return (value, value * math.sqrt(variance)) if metric else (math.nan, math.nan)


def _joined(first: Sample, second: Sample) -> Sample:
    return replace(second, **{name: max(getattr(first, name), getattr(second, name))
                              for name in PEAKS})
