# SPDX-License-Identifier: Apache-2.0
"""A network of another package: it measures poses, completes each image at once, never forgets.

Its checkpoint is a JSON file with the suffix `.toy`; it reads from an image, as drawn there by
`drawn_index`, which pose of the synthetic orbit it stands for, and answers with rendered truth.
"""
from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spann3r_ros.core.network import Compute, Estimate, NetworkStatus
from spann3r_ros.core.settings import check_settings, setting
from spann3r_ros.core.types import Pointmap
from spann3r_ros.networks.checkpoint_files import CheckpointFile
from spann3r_ros.networks.kind import NetworkKind

SIZE = 96
FRAMES = 60


@dataclass(frozen=True)
class ToySettings:
    """What is wrong with the answers."""

    noise: float = setting(0.0, 'Standard deviation of every point in metres', 0.0, 1.0)
    pose_noise: float = setting(0.0, 'Standard deviation of the place of every camera', 0.0, 1.0)

    def __post_init__(self) -> None:
        check_settings(self)


class ToyNetwork:
    """Poses and points of the synthetic orbit, final with their image."""

    name = 'toy'
    identity = 'toy'
    measures_pose = True

    def __init__(self, settings: ToySettings) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from synthetic import SyntheticScene, orbit_trajectory, square_camera
        self._settings = settings
        self._scene, self._camera = SyntheticScene(), square_camera(SIZE)
        self._poses = orbit_trajectory(FRAMES)
        self._indices: list[int] = []
        self._first_id = 0

    def input_size(self, aspect: float) -> tuple[int, int]:
        return SIZE, SIZE

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        from drawn_index import decode_index
        index = decode_index(image)
        if not self._indices:
            self._first_id = image_id
        self._indices.append(index)
        return [self._estimate(index, self._indices[0], image_id, self._first_id)]

    def provisional(self) -> Estimate | None:
        return None

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        from drawn_index import decode_index
        indices = decode_index(first), decode_index(second)
        return (self._estimate(indices[0], indices[0], 0, 0),
                self._estimate(indices[1], indices[0], 1, 0))

    def flush(self) -> list[Estimate]:
        return []

    def reset(self) -> None:
        self._indices = []

    def state(self) -> dict[str, np.ndarray]:
        # As many rows as there were images: a memory that grows.
        return {'indices': np.array(self._indices, int), 'first': np.array(self._first_id)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._indices, self._first_id = arrays['indices'].tolist(), int(arrays['first'])

    def status(self) -> NetworkStatus:
        return NetworkStatus(tokens=len(self._indices), threads=1,
                             values=(('images', len(self._indices)),))

    def _estimate(self, index: int, origin: int, image_id: int, reference_id: int) -> Estimate:
        draw = np.random.default_rng(index)
        points = self._scene.render(self._poses[index], self._camera)[1]
        points = points + self._settings.noise * draw.standard_normal(points.shape)
        pose = np.linalg.inv(self._poses[origin]) @ self._poses[index]
        seen = points @ pose[:3, :3].T + pose[:3, 3]
        pose[:3, 3] += self._settings.pose_noise * draw.standard_normal(3)
        confidence = np.full(points.shape[:2], 0.9, np.float32)
        return Estimate(image_id, reference_id, Pointmap(seen.astype(np.float32), confidence),
                        local=Pointmap(points.astype(np.float32), confidence),
                        reference_from_camera=pose)


def _open(path: Path, settings: ToySettings, _: Compute) -> ToyNetwork:
    json.loads(path.read_text())
    return ToyNetwork(settings)


def _recognises(file: CheckpointFile) -> bool:
    return file.path.suffix == '.toy'


KIND = NetworkKind('toy', ToySettings, _recognises, _open)
