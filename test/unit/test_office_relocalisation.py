# SPDX-License-Identifier: Apache-2.0
"""Relocalisation in the first half of a recorded walk through an office.

Every second image is mapped. Starts at the others are found, less exposed and in another unit; the
second half of the walk, which comes back to none of them within 1 m and 30 degrees, is not.
Depth and poses are true but for smooth errors. The descriptors are those of the bundled encoder,
which has never seen a photograph.
"""
from __future__ import annotations

import numpy as np
import torch
from office_walk import OfficeErrors, OfficeWalk, office_walk
from oracle import PairingOffice
from synthetic import every_frame

from spann3r_ros import share_directory
from spann3r_ros.core.transforms import invert
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.relocalisation.relocalisation_config import RelocalisationConfig
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree
from spann3r_ros.networks.spann3r.spann3r_network import load_network
from spann3r_ros.networks.spann3r.streams import mean_feature, to_input

HALF, SHOWN = 186, 7
FOUND_FROM = range(5, HALF - 2 * SHOWN, 24)
FOREIGN_FROM = range(HALF + 20, 360, 40)
LATER_NS = 10**12


def network(walk: OfficeWalk) -> PairingOffice:
    encoder = load_network(share_directory() / 'models' / 'rooms_small.safetensors')

    def describe(image: np.ndarray) -> np.ndarray:
        square = np.ascontiguousarray(image[:, 24:120])
        with torch.inference_mode():
            return mean_feature(encoder.dust3r.encode(to_input(square, torch.device('cpu'))))
    return PairingOffice(walk, describe, OfficeErrors(warp=0.05, scale_spread=1.5))


def test_revisits_of_the_office_are_located_and_nothing_else() -> None:
    walk = office_walk()
    answering, mapped = network(walk), list(range(0, HALF, 2))
    settings = every_frame(MapperConfig(
        live_pose=False, grid=GridConfig(enabled=False),
        relocalisation=RelocalisationConfig(enabled=True, after_load='search')))
    mapper = Mapper(answering, settings)
    for frame in walk.frames(mapped):
        mapper.process(frame)
    saved = encode_tree(mapper.tree())
    unit = answering.sequence_scale(0)

    def located(shown: list[int], number: int) -> Mapper | None:
        """Return the mapper once the camera is located by some images; None if it never is."""
        mapper = Mapper(answering, settings)
        mapper.load(decode_tree(*saved))
        answering._fragments = number  # each sequence has a unit and an error of its own
        for frame in walk.frames(shown, gain=0.7, first_ns=LATER_NS):
            if mapper.process(frame).located:
                return mapper
        return None

    found = 0
    for start in FOUND_FROM:
        shown = list(range(start, start + 2 * SHOWN, 2))
        mapper = located(shown, start)
        if mapper is None:
            continue
        found += 1
        path = {one.stamp_ns: one.world_from_camera for one in mapper.trajectory}
        newest = max(path)
        image = shown[(newest - LATER_NS) // 10**8]
        # The map has drifted: the place is compared with that of the mapped image before.
        before = path[10**9 + mapped.index(image - 1) * 10**8]
        motion = invert(walk.poses[image - 1]) @ walk.poses[image]
        motion[:3, 3] *= unit
        error = invert(before @ motion) @ path[newest]
        depth = unit * np.median(walk.depths[image][walk.depths[image] > 0.0])
        assert np.linalg.norm(error[:3, 3]) <= 0.05 * depth
        assert np.trace(error[:3, :3]) >= 1.0 + 2.0 * np.cos(np.radians(5.0))
    assert found >= 0.9 * len(FOUND_FROM)
    for start in FOREIGN_FROM:
        assert located(list(range(start, start + SHOWN)), start) is None
