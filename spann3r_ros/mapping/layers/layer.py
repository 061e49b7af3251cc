# SPDX-License-Identifier: Apache-2.0
"""The protocol of a layer: what keyframes become for others."""
from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any, Protocol

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.mapping.storage.saved_tree import SavedNode


class Layer(Protocol):
    """Turns keyframes into something for others; the stores belong to the fragments.

    A layer holds settings, counters and the bounds over all its stores. Each store has the data of
    one fragment, in the frame of the fragment, so it does not change when the fragment moves.
    """

    name: str
    # Whether a saved map may lack the layer; its counters are None then.
    optional: bool

    def counters(self) -> Any:  # noqa: ANN401
        """Return the counters, which `restore` takes."""

    def new_store(self) -> Sized:
        """Return the empty store of a new fragment; its length is zero while it is empty."""

    def integrate(self, store: Any,  # noqa: ANN401
                  located: Sequence[tuple[Any, np.ndarray | None]], keyframe: Keyframe,
                  points: np.ndarray, metric: bool = False) -> None:
        """Add a keyframe to the store of its fragment.

        `located` are the stores of all fragments, each with its `map_from_fragment` [4, 4]; None
        for another fragment if it is not known where both are to each other. `points` [h, w, 3]
        are those of the keyframe, in the fragment; NaN where unknown. The map is in metres if
        `metric`.
        """

    def clear(self) -> None:
        """Begin a new map: reset the counters."""

    def tree(self) -> dict[str, Any]:
        """Return the counters for a saved map."""

    def read(self, node: SavedNode) -> Any:  # noqa: ANN401
        """Return saved counters; raise ValueError if they do not fit the settings."""

    def restore(self, counters: Any) -> None:  # noqa: ANN401
        """Take over counters that `read` or `counters` returned."""

    def check_stores(self, stores: Sequence[Any]) -> None:
        """Raise ValueError if saved stores together exceed the bounds."""

    def store_tree(self, store: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return a store for a saved map."""

    def read_store(self, node: SavedNode, counters: Any) -> Any:  # noqa: ANN401
        """Return a saved store; raise ValueError if it does not fit the settings or counters."""
