# SPDX-License-Identifier: Apache-2.0
"""Loops on a recorded walk through an office: out, and back between the images, less exposed.

Depth and poses are true but for smooth errors. The descriptors are those of the bundled encoder,
which has never seen a photograph.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from office_walk import OfficeErrors, OfficeWalk, office_walk
from oracle import PairingOffice, overlap
from synthetic import every_frame

from spann3r_ros import share_directory
from spann3r_ros.core.similarity import error_vectors
from spann3r_ros.core.transforms import invert, invert_similarity
from spann3r_ros.mapping.loops.loop_closer import LoopRecord
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import LoopConfig, MapperConfig
from spann3r_ros.networks.spann3r.spann3r_network import load_network
from spann3r_ros.networks.spann3r.streams import mean_feature, to_input

FRAGMENT = 30
# The recording has 373; more take longer and change nothing.
IMAGES = 260
GAP = 20
# What counts as a revisit.
NEAR_M, NEAR_DEG = 1.0, 30.0


@dataclass(frozen=True)
class Walked:
    """What came of the walk: the images in their order, and the verified candidates."""

    walk: OfficeWalk
    images: list[int]
    out: int  # how many of them are on the way out
    network: PairingOffice
    records: list[LoopRecord]

    def image_of(self, stamp_ns: int) -> int:
        """Return the number of a keyframe's image in the recording."""
        return self.images[(stamp_ns - 10**9) // 10**8]


def walked() -> Walked:
    """Map even images on the way out, and odd ones on the way back at 60 % of the exposure."""
    walk = office_walk()
    encoder = load_network(share_directory() / 'models' / 'rooms_small.safetensors')

    def describe(image: np.ndarray) -> np.ndarray:
        square = np.ascontiguousarray(image[:, 24:120])
        with torch.inference_mode():
            return mean_feature(encoder.dust3r.encode(to_input(square, torch.device('cpu'))))
    network = PairingOffice(walk, describe, OfficeErrors(warp=0.05))
    mapper = Mapper(network, replace(every_frame(MapperConfig(live_pose=False)), loops=LoopConfig(
        enabled=True, interval=1, min_gap=GAP)))
    out, back = list(range(0, IMAGES, 2)), list(range(IMAGES - 1, 0, -2))
    frames = walk.frames(out) + walk.frames(back, gain=0.6,
                                            first_ns=10**9 + len(out) * 10**8)
    for index, frame in enumerate(frames):
        if index and index % FRAGMENT == 0:
            mapper.new_fragment()
        mapper.process(frame)
    mapper.flush()
    return Walked(walk, [*out, *back], len(out), network,
                  list(mapper._state.back_end.loops.records))


def test_revisits_of_the_office_are_found_and_nothing_else() -> None:
    result = walked()
    loops = [one for one in result.records if not one.reason]
    found = {result.image_of(one.second_pose.stamp_ns) for one in loops}
    poses = result.walk.poses
    revisits = []
    for position in range(result.out, len(result.images)):
        # Keyframes of the same fragment are no candidates.
        before = result.images[:min(position - GAP, position // FRAGMENT * FRAGMENT)]
        relative = invert(poses[result.images[position]]) @ poses[before]
        turns = np.degrees(np.arccos(np.clip(
            0.5 * (np.trace(relative[:, :3, :3], axis1=1, axis2=2) - 1.0), -1.0, 1.0)))
        if ((np.linalg.norm(relative[:, :3, 3], axis=1) < NEAR_M) & (turns < NEAR_DEG)).any():
            revisits.append(result.images[position])
    assert len(revisits) > 90
    assert len(found & set(revisits)) >= 0.8 * len(revisits)
    # No loop joins what is apart.
    for one in loops:
        first, second = (result.image_of(pose.stamp_ns)
                         for pose in (one.first_pose, one.second_pose))
        assert overlap(result.network.view(first), result.network.view(second)) > 0.2
        error = error_vectors(invert_similarity(one.first_from_second)
                              @ invert(poses[first]) @ poses[second])
        assert np.linalg.norm(error[:3]) < 0.15 and np.linalg.norm(error[3:6]) < 0.05
