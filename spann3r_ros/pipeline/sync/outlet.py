# SPDX-License-Identifier: Apache-2.0
"""Where a synchroniser passes its images on."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spann3r_ros.core.types import Frame, FrameError


@dataclass(frozen=True)
class Outlet:
    """The calls by which a synchroniser passes an image on, drops it, or asks for a `match`.

    `warn` is given the reason of a drop. `fail` refuses an image that cannot be used.
    `match_soon` arranges a later call of `match`.
    """

    pass_on: Callable[[Frame], None]
    drop: Callable[[], None]
    warn: Callable[[Exception], None]
    fail: Callable[[Exception], None]
    match_soon: Callable[[], None]

    def refuse(self, reason: str) -> None:
        """Drop an image and warn."""
        self.drop()
        self.warn(FrameError(reason))
