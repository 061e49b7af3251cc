# SPDX-License-Identifier: Apache-2.0
"""A network one image late that answers with what a subclass says."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from spann3r_ros.core.network import Estimate, NetworkStatus
from spann3r_ros.core.types import Pointmap


class FakeNetwork:
    """Calls `begin` before the first image of a sequence, `answer` for each image's points."""

    name = 'fake'
    identity = 'fake'
    measures_pose = False

    def __init__(self, size: int | tuple[int, int]) -> None:
        self._size = (size, size) if isinstance(size, int) else size
        self._ids: list[int] = []

    def begin(self) -> None:
        """Take note that a sequence begins."""

    def answer(self, index: int) -> Pointmap:
        """Return the pointmap of the sequence's image of this index."""
        raise NotImplementedError

    def check(self, image: np.ndarray, index: int) -> None:
        """Look at an image that is given."""

    def input_size(self, aspect: float) -> tuple[int, int]:
        return self._size

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        if not self._ids:
            self.begin()
        self.check(image, len(self._ids))
        self._ids.append(image_id)
        return [self._estimate(len(self._ids) - 2)] if len(self._ids) > 1 else []

    def provisional(self) -> Estimate | None:
        newest = self.flush()
        return replace(newest[0], final=False) if newest else None

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        raise NotImplementedError

    def flush(self) -> list[Estimate]:
        return [self._estimate(len(self._ids) - 1)] if len(self._ids) > 1 else []

    def reset(self) -> None:
        self._ids = []

    def state(self) -> dict[str, np.ndarray]:
        return {'ids': np.array(self._ids, int)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._ids = arrays['ids'].tolist()

    def status(self) -> NetworkStatus:
        return NetworkStatus()

    def _estimate(self, index: int) -> Estimate:
        return Estimate(self._ids[index], self._ids[0], self.answer(index))
