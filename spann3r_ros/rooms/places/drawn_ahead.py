# SPDX-License-Identifier: Apache-2.0
"""Places by their number, drawn ahead by other processes."""
from __future__ import annotations

import os
import pickle
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from spann3r_ros.rooms.assets.asset_pack import AssetPack

from .place import Place
from .place_drawing import draw_place

# Places that are drawn ahead, per process.
AHEAD = 4
WATCH_SEC = 1.0

# What a worker process draws with; set once in each.
_own: PlaceDrawings | None = None


class PlaceDrawings:
    """The places of a seed; place n does not depend on the others.

    With `workers` above 0, so many processes draw the places that follow the last one.
    """

    def __init__(self, pack: AssetPack, patterns: int, seed: int, workers: int = 0) -> None:
        self._pack, self._patterns, self._seed = pack, patterns, seed
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._ahead: dict[int, Future[bytes]] = {}

    def get(self, number: int) -> Place:
        """Return a place."""
        if not self._workers:
            return self.draw(number)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers, get_context('spawn'), _prepare,
                (PlaceDrawings(self._pack, self._patterns, self._seed), os.getpid()))
        for passed in [item for item in self._ahead if item < number]:
            self._ahead.pop(passed).cancel()
        for following in range(number, number + 1 + AHEAD * self._workers):
            if following not in self._ahead:
                self._ahead[following] = self._pool.submit(_draw, following)
        return pickle.loads(self._ahead.pop(number).result())

    def draw(self, number: int) -> Place:
        """Draw a place in this process."""
        return draw_place(self._pack, self._patterns, np.random.default_rng(
            (self._seed, 0, number)))


def _prepare(drawings: PlaceDrawings, parent: int) -> None:
    global _own
    torch.set_num_threads(1)
    _own = drawings
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, in whatever way."""
    while os.getppid() == parent:
        time.sleep(WATCH_SEC)
    os._exit(1)


def _draw(number: int) -> bytes:
    # As bytes: torch would send each tensor as a file of shared memory, of which there are few.
    return pickle.dumps(_own.draw(number))
