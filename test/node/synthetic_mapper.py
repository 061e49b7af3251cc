# SPDX-License-Identifier: Apache-2.0
"""The mapper node on a synthetic reconstructor; its checkpoint is a JSON file of its options.

An orbit of `FRAMES` poses; the image says by its drawn index which pose it stands for.
"""
import ctypes
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from synthetic import (
    SyntheticNetwork,
    SyntheticOptions,
    SyntheticScene,
    orbit_trajectory,
    square_camera,
)

from spann3r_ros.core.network import Compute, Network
from spann3r_ros.ros.mapper_node import main

FRAMES = 60
CAMERA = square_camera(96)
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1


def create_network(checkpoint: str, settings: Mapping[str, Any], compute: Compute) -> Network:
    options = SyntheticOptions(index_from_image=True)
    if checkpoint:
        options = replace(options, **json.loads(Path(checkpoint).read_text()))
    return SyntheticNetwork(SyntheticScene(), orbit_trajectory(FRAMES), options, CAMERA)


def obey_file_modes() -> None:
    """Let root be refused by file modes, the same as an ordinary user."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low words, high words
    libc.capget(header, sets)
    sets[0] &= ~(1 << CAP_DAC_OVERRIDE)
    libc.capset(header, sets)


if __name__ == '__main__':
    obey_file_modes()
    sys.exit(main(create_network=create_network))
