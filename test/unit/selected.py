# SPDX-License-Identifier: Apache-2.0
"""Which images of a sequence become keyframes by the gate alone, and noise for them."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import preprocess
from spann3r_ros.mapping.mapper_config import KeyframeConfig
from spann3r_ros.mapping.selection.keyframe_gate import KeyframeGate, Verdict

SECOND_NS = 10**9
DEFAULT = KeyframeConfig()


def with_noise(image: np.ndarray, rng: np.random.Generator, sigma: float = 3.0) -> np.ndarray:
    return np.clip(image + sigma * rng.standard_normal(image.shape), 0, 255).astype(np.uint8)


def select(images: Sequence[np.ndarray], camera: Intrinsics | None, rate: float = 10.0,
           config: KeyframeConfig = DEFAULT, size: tuple[int, int] = (120, 160)) -> list[int]:
    """Return the numbers of the images that become keyframes, by the gate alone."""
    gate, chosen = KeyframeGate(config), []
    for index, image in enumerate(images):
        stamp_ns = SECOND_NS + round(index * SECOND_NS / rate)
        view = preprocess(Frame(stamp_ns, 'camera', image, camera), size)
        if gate.judge(stamp_ns, view, view.intrinsics, False) is not Verdict.ADMITTED:
            gate.skip()
            continue
        gate.admit(stamp_ns, view)
        chosen.append(index)
    return chosen
