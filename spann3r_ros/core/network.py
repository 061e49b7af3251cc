# SPDX-License-Identifier: Apache-2.0
"""The protocol of a streaming network: images in, pointmaps out, numpy at both ends."""
from __future__ import annotations

from collections.abc import Sequence
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
    threads: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a network estimates of one image.

    `pointmap` is in the optical frame of the image `reference_id`, which is the first one of the
    sequence or of the pair. `final` is true if no later step changes the estimate. `local` is the
    pointmap in the image's own optical frame, and `reference_from_camera` [4, 4] the rigid pose of
    the camera in units of the pointmap; both are None if the network does not estimate them.
    `descriptor`, float32 [n], describes the place
    for recognition: images of one place have descriptors in similar directions, once the mean of
    many places is subtracted.
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
    """Counters of a network's memory, and further numbers of this network by name (`values`).

    `device_bytes` counts weights and memory. `threads` is the number of CPU threads; 0: unknown.
    """

    tokens: int = 0
    capacity_tokens: int = 0
    rejected_frames: int = 0
    device_bytes: int = 0
    threads: int = 0
    values: tuple[tuple[str, float], ...] = ()


class Network(Protocol):
    """A streaming network over one sequence of images; it depends neither on maps nor on ROS.

    Images are uint8 RGB [height, width, 3] of the size that `input_size` returned. The points of
    a sequence are in the optical frame (x right, y down, z forward) of its first image, in an
    arbitrary unit. A step that fails leaves the sequence unchanged. After FrameError only its
    image is lost; after DeviceMemoryError the network must be reset.
    """

    name: str
    # Text that is the same for the same weights, whatever the device and the precision, and
    # differs between others.
    identity: str
    # Whether estimates carry the camera's pose; if not, it is solved from the pointmap.
    measures_pose: bool

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return (height, width) of the images to give for cameras of this width / height."""

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Process the next image; return the final estimates that it completes, oldest first.

        They are of this image or of earlier ones; there may be none. `image_id` identifies the
        image in its estimate.
        """

    def provisional(self) -> Estimate | None:
        """Return an estimate of the newest image, if its final estimate is still to come.

        None when there is no such image, or when memory does not suffice; no image is lost then.
        """

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images alone, with ids 0 and 1, in the first one's frame.

        The sequence is neither read nor changed.
        """

    def flush(self) -> list[Estimate]:
        """Return the final estimates of the images that have none yet."""

    def reset(self) -> None:
        """Empty the memory: the next image begins a sequence."""

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all arrays that the network keeps from one step to the next."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned.

        Raises ValueError, and changes nothing, if the arrays do not fit this network.
        """

    def status(self) -> NetworkStatus:
        """Return the counters."""


class Arrangement(Protocol):
    """Unordered images, by their indices, and a sequence of them that is chosen one by one.

    The sequence is not that of `Network.step`, which is neither read nor changed.
    """

    def descriptor(self, index: int) -> np.ndarray | None:
        """Return what describes the place of an image, as `Estimate.descriptor`."""

    def pair(self, first: int, second: int) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images alone, as `Network.pair` does."""

    def begin(self, first: int, second: int) -> None:
        """Begin the sequence with two images."""

    def confidences(self, indices: Sequence[int]) -> list[float]:
        """Return for each image how confident the network is if it comes next, in [0, 2).

        It is the sum of the mean confidences of the image and of the one before it.
        """

    def take(self, index: int) -> None:
        """Let an image come next."""


@runtime_checkable
class ArrangingNetwork(Protocol):
    """A network that weighs by its memory which of several images is to come next.

    `networks.arrangement.arrange` does that for other networks by their `pair`.
    """

    def arrange(self, images: Sequence[np.ndarray]) -> Arrangement:
        """Return an arrangement of images, each of the size that `input_size` returned."""
