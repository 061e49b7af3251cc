# SPDX-License-Identifier: Apache-2.0
"""The protocol of a streaming network: images in, pointmaps out, numpy at both ends."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from .types import Pointmap


@dataclass(frozen=True)
class Compute:
    """Where and how a network computes: the node's parameters of the same names."""

    device: str = 'auto'
    precision: str = 'auto'
    compile: bool = False
    cuda_graph: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a network estimates of one image.

    `pointmap` is in the optical frame of the image `reference_id`, the first of the sequence or
    of the pair. `final`: no later step changes it. `local` is the pointmap in the image's own
    optical frame and `reference_from_camera` [4, 4] the camera's pose, rigid, in units of the
    pointmap, both where the network estimates them apart; `descriptor` [n] describes the place.
    """

    image_id: int
    reference_id: int
    pointmap: Pointmap
    final: bool = True
    local: Pointmap | None = None
    reference_from_camera: np.ndarray | None = None
    descriptor: np.ndarray | None = None


@dataclass(frozen=True)
class NetworkStatus:
    """Counters of a network's memory, and numbers of its own by name (`values`).

    `device_bytes` are weights and memory; `threads` is how many a CPU computes with, 0: unknown.
    """

    tokens: int = 0
    capacity_tokens: int = 0
    rejected_frames: int = 0
    device_bytes: int = 0
    threads: int = 0
    values: tuple[tuple[str, float], ...] = ()


class Network(Protocol):
    """A streaming network over one sequence of images; it knows nothing of maps or ROS.

    Images are uint8 RGB [height, width, 3] of the size that `input_size` returned. The points of
    a sequence are in the optical frame (x right, y down, z forward) of its first image, in an
    arbitrary unit. A step that fails leaves the sequence as it was: FrameError costs its image,
    DeviceMemoryError says that only a reset helps.
    """

    name: str
    # Whether estimates carry the camera's pose; if not, it is solved from the pointmap.
    measures_pose: bool

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return (height, width) of the images to give for cameras of this width / height."""

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Take the next image; return the final estimates that it completes, oldest first.

        They are of this image, of earlier ones, or none. `image_id` names the image in them.
        """

    def provisional(self) -> Estimate | None:
        """Return an estimate of the newest image whose final one is still to come.

        None when there is no such image, or when memory does not suffice: it costs no image.
        """

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images alone, with ids 0 and 1, in the first one's frame.

        The sequence is neither read nor changed.
        """

    def flush(self) -> list[Estimate]:
        """Return the final estimates of the images that still wait for theirs."""

    def reset(self) -> None:
        """Forget every image: the next one begins a sequence."""

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all that lives between two steps."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what `state` returned; ValueError, and no change, where it does not fit."""

    def status(self) -> NetworkStatus:
        """Return the counters."""


@runtime_checkable
class ArrangingNetwork(Protocol):
    """A network that can also take images in any order and choose one."""

    def arrange(self, images: np.ndarray) -> list[Estimate]:
        """Return the estimates of images uint8 [n, height, width, 3] in the order chosen.

        `image_id` is an image's place in `images`; all are in the frame of the first one chosen.
        The sequence is neither read nor changed. ValueError below two images.
        """
