# SPDX-License-Identifier: Apache-2.0
"""Trajectories as text: TUM, and KITTI with its file of times."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from spann3r_ros.core.transforms import matrix_to_quaternion, quaternion_to_matrix
from spann3r_ros.core.types import StampedPose

NANOSECONDS = 1_000_000_000


def encode_tum(poses: Iterable[StampedPose], notes: Sequence[str] = ()) -> bytes:
    """Return poses as a TUM file: stamp (s), x y z, quaternion x y z w in each line.

    The poses keep their order and their stamps. A comment is written where a stamp is not after
    the one before, and at the beginning for each of `notes`.
    """
    lines = [*(f'# {note}' for note in notes), '# timestamp tx ty tz qx qy qz qw']
    newest_ns = -1
    for pose in poses:
        if pose.stamp_ns <= newest_ns:
            lines.append('# the stamps go back here')
        newest_ns = pose.stamp_ns
        quaternion = matrix_to_quaternion(pose.world_from_camera[:3, :3])
        # A position may be far from the origin, as UTM coordinates are.
        numbers = [*(f'{number:.12g}' for number in pose.world_from_camera[:3, 3]),
                   *(f'{number:.9g}' for number in quaternion)]
        lines.append(' '.join([_seconds(pose.stamp_ns), *numbers]))
    return ('\n'.join(lines) + '\n').encode()


def read_tum(path: Path | str, frame_id: str = 'camera') -> list[StampedPose]:
    """Return TUM lines as poses of camera `frame_id`; raise ValueError with the file and line."""
    poses = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith('#'):
            continue
        try:
            # Decimal keeps every nanosecond; a float would round to a fraction of a microsecond.
            stamp_ns = int(Decimal(words[0]) * NANOSECONDS)
            values = np.array(words[1:], float)
            transform = np.eye(4)
            transform[:3, 3], rotation = values[:3], quaternion_to_matrix(values[3:])
            transform[:3, :3] = rotation
        except (ValueError, InvalidOperation, OverflowError) as error:
            raise ValueError(f'{path}:{number}: expected 8 numbers, got {line!r}') from error
        poses.append(StampedPose(stamp_ns, frame_id, transform))
    return poses


def encode_kitti(poses: Iterable[StampedPose]) -> bytes:
    """Return poses as a KITTI file: the upper three rows of `map_from_camera` in each line.

    The format has neither stamps nor comments; `encode_times` has the stamps.
    """
    lines = [' '.join(f'{number:.12g}' for number in pose.world_from_camera[:3].ravel())
             for pose in poses]
    return ''.join(f'{line}\n' for line in lines).encode()


def encode_times(poses: Iterable[StampedPose]) -> bytes:
    """Return the stamps of poses in seconds, one in each line."""
    return ''.join(f'{_seconds(pose.stamp_ns)}\n' for pose in poses).encode()


def _seconds(stamp_ns: int) -> str:
    return f'{stamp_ns // NANOSECONDS}.{stamp_ns % NANOSECONDS:09d}'
