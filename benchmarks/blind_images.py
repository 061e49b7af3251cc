# SPDX-License-Identifier: Apache-2.0
"""The bundled bag with images that show nothing: `make bench-blind`.

In the middle of the bag images of one defect are inserted, while the camera stands still, or
replace images, while it moves on. The other images are compared with the run of the bag as it is.
`--set sight.check=false` shows what such images do to the map.
"""
from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from spann3r_ros import share_directory
from spann3r_ros.core.encodings import to_rgb
from spann3r_ros.core.files import write_json
from spann3r_ros.core.messages import to_intrinsics, to_nanoseconds
from spann3r_ros.core.network import Network
from spann3r_ros.core.transforms import invert, rotation_vector
from spann3r_ros.core.types import Frame
from spann3r_ros.datasets.bags import CameraBag
from spann3r_ros.evaluation.recorded_runs import EVERY_FRAME, in_world
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.networks.registry import open_network, resolve_checkpoint
from spann3r_ros.pipeline.node_settings import from_values, parse_values
from spann3r_ros.pipeline.runner import run_frames

Spoil = Callable[[np.ndarray, np.random.Generator], np.ndarray]
# A point of the path that is closer to the plain run, in shares of the path's length, is tracked.
NEAR = 0.03


def with_noise(level: float, sigma: float) -> Spoil:
    """Return a picture of one level in 0..255 with a camera's noise."""
    def spoil(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return _to_pixels(rng.normal(level, sigma, rgb.shape))
    return spoil


def overexposed(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Return an image of 16 times the light, which clips."""
    return _to_pixels(16.0 * rgb + 100.0)


def blurred(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Return an image blurred along its rows by an eighth of its width."""
    return cv2.blur(rgb, (rgb.shape[1] // 8, 1))


def defocused(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Return an image whose points are discs of an eighth of its width."""
    size = rgb.shape[1] // 8 | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)).astype(np.float32)
    return cv2.filter2D(rgb, -1, disc / disc.sum())


def wall(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a wall without texture: darker towards the corners, with a camera's noise."""
    height, width = rgb.shape[:2]
    rows, columns = np.indices((height, width))
    radius = np.hypot(rows / height - 0.5, columns / width - 0.5)
    light = 190.0 * (1.0 - 0.5 * radius**2)
    return _to_pixels(light[..., None] * (1.0, 0.97, 0.92) + rng.normal(0.0, 2.0, rgb.shape))


def half_wall(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image whose right half such a wall covers."""
    half = rgb.shape[1] // 2
    return np.hstack([rgb[:, :half], wall(rgb, rng)[:, half:]])


def hand(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a lens covered by a hand: a dark red glow at one side, with much noise."""
    glow = np.linspace(8.0, 22.0, rgb.shape[1])[None, :, None] * (1.0, 0.4, 0.3)
    return _to_pixels(glow + rng.normal(0.0, 4.0, rgb.shape))


def torn(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Return an image of which only the upper fifth has come."""
    image = rgb.copy()
    image[len(image) // 5:] = (0, 135, 0)
    return image


def no_signal(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Return the picture of a device without a signal."""
    height, width = rgb.shape[:2]
    image = np.full_like(rgb, (0, 0, 255))
    return cv2.putText(image, 'NO SIGNAL', (width // 6, height // 2), cv2.FONT_HERSHEY_SIMPLEX,
                       width / 300.0, (255, 255, 255), max(1, width // 150))


def frozen(rgb: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Return the image as it is: `spoil_frames` gives all the same one."""
    return rgb


DEFECTS: dict[str, Spoil] = {
    'black': with_noise(0.0, 0.0), 'white': with_noise(255.0, 0.0), 'grey': with_noise(128.0, 0.0),
    'hand': hand, 'wall': wall, 'overexposed': overexposed, 'blurred': blurred,
    'defocused': defocused, 'torn': torn, 'no_signal': no_signal, 'frozen': frozen}
# These still show something, so that they are used.
PARTIAL: dict[str, Spoil] = {'half_wall': half_wall}


@dataclass(frozen=True)
class Spoilt:
    """Frames of a recording some of which show nothing.

    `numbers` are those of the frames before, by stamp; `blind` the stamps of the spoilt frames.
    """

    frames: list[Frame]
    numbers: dict[int, int]
    blind: frozenset[int]


@dataclass(frozen=True)
class Outcome:
    """What a defect cost, in shares of the plain path's length where it is a distance.

    `spoilt`: frames that show nothing, while the camera `moved` and `turned_deg`. Of these
    `skipped` were skipped, `keyframes` entered the map and `live` got a live pose. `mean` and
    `largest`: the distances to the plain path afterwards. `nees`: the mean of the first image's
    squared errors of position, normalised by their covariance. `resumed`: the number of images
    afterwards until one is within `NEAR`; 0: none. `lost`: other images without a pose. `voxels`:
    relative to the plain run.
    """

    defect: str
    mode: str
    spoilt: int
    moved: float
    turned_deg: int
    skipped: int
    keyframes: int
    live: int
    mean: float
    largest: float
    nees: float
    resumed: int
    lost: int
    voxels: float
    fragments: int


@dataclass(frozen=True)
class Mapped:
    """The result of mapping a recording.

    `poses` are those of the images that are not spoilt, by number, and `covariances` [6, 6] those
    of their errors. `keyframes` and `live` are the stamps of the keyframes and live poses.
    """

    poses: dict[int, np.ndarray]
    covariances: dict[int, np.ndarray]
    keyframes: frozenset[int]
    live: frozenset[int]
    blind: int
    voxels: int
    fragments: int

    @property
    def length(self) -> float:
        """Return the length of the path."""
        path = np.array([self.poses[number][:3, 3] for number in sorted(self.poses)])
        return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def bag_frames(path: Path) -> list[Frame]:
    """Return the images of a bag with its first calibration."""
    calibration, images = None, []
    with CameraBag(path) as bag:
        for role, _, message in bag.messages():
            if role == 'camera_info' and calibration is None:
                calibration = to_intrinsics(message, False)
            elif role == 'image':
                images.append((to_nanoseconds(message.header.stamp), to_rgb(message)))
    return [Frame(stamp_ns, 'camera', rgb, calibration) for stamp_ns, rgb in images]


def spoil_frames(frames: Sequence[Frame], defect: str, count: int, inserted: bool) -> Spoilt:
    """Return a recording with `count` spoilt frames in its middle.

    They are inserted, all made of the frame before them, or they replace frames.
    """
    rng = np.random.default_rng(0)
    first = len(frames) // 2 if inserted else (len(frames) - count) // 2
    period_ns = (frames[-1].stamp_ns - frames[0].stamp_ns) // (len(frames) - 1)
    views = [frames[first - 1]] * count if inserted or defect == 'frozen' else frames[
        first:first + count]
    rest, delay_ns = (first, count * period_ns) if inserted else (first + count, 0)
    spoilt = [replace(view, rgb={**DEFECTS, **PARTIAL}[defect](view.rgb, rng),
                      stamp_ns=frames[first - 1].stamp_ns + (index + 1) * period_ns)
              for index, view in enumerate(views)]
    after = [replace(frame, stamp_ns=frame.stamp_ns + delay_ns) for frame in frames[rest:]]
    numbers = {frame.stamp_ns: index for index, frame in enumerate(frames[:first])}
    numbers |= {frame.stamp_ns: rest + index for index, frame in enumerate(after)}
    return Spoilt([*frames[:first], *spoilt, *after], numbers,
                  frozenset(frame.stamp_ns for frame in spoilt))


def map_frames(network: Network, recording: Spoilt, config: MapperConfig | None = None) -> Mapped:
    """Map a recording with a network; every frame is a keyframe."""
    mapper = Mapper(network, replace(config or MapperConfig(), keyframes=EVERY_FRAME))
    statuses = []
    updates = run_frames(mapper, recording.frames, lambda: statuses.append(mapper.status())
                         ).updates
    keyframes = in_world(updates, np.eye(4))
    placed = {recording.numbers[one.stamp_ns]: one for one in keyframes
              if one.stamp_ns in recording.numbers and one.world_from_camera is not None}
    return Mapped(
        {number: one.world_from_camera for number, one in placed.items()},
        {number: one.covariance for number, one in placed.items()},
        frozenset(one.stamp_ns for one in keyframes),
        frozenset(one.live_pose.stamp_ns for one in updates if one.live_pose is not None),
        sum(one.blind for one in updates), statuses[-1].voxels,
        len({one.fragment_id for one in keyframes}))


def whole(frames: Sequence[Frame]) -> Spoilt:
    """Return a recording of which no frame is spoilt."""
    return Spoilt(list(frames), {frame.stamp_ns: index for index, frame in enumerate(frames)},
                  frozenset())


def measure(network: Network, frames: Sequence[Frame], plain: Mapped, defect: str, count: int,
            inserted: bool, config: MapperConfig | None = None) -> Outcome:
    """Map a spoilt recording and compare it with the plain run."""
    recording = spoil_frames(frames, defect, count, inserted)
    found = map_frames(network, recording, config)
    length = plain.length
    after = [number for stamp, number in recording.numbers.items()
             if stamp > max(recording.blind)]
    shifts = {number: found.poses[number][:3, 3] - plain.poses[number][:3, 3]
              for number in after if number in found.poses}
    errors = {number: float(np.linalg.norm(shift)) / length for number, shift in shifts.items()}
    near = [index for index, number in enumerate(after) if errors.get(number, 1.0) <= NEAR]
    gap = (invert(plain.poses[after[0] - 1 if inserted else after[0] - count - 1])
           @ plain.poses[after[0] - 1 if inserted else after[0]])
    first = min(shifts)
    nees = shifts[first] @ np.linalg.solve(found.covariances[first][:3, :3], shifts[first]) / 3.0
    return Outcome(
        defect, 'inserted' if inserted else 'replaced', len(recording.blind),
        float(np.linalg.norm(gap[:3, 3])) / length,
        round(np.degrees(np.linalg.norm(rotation_vector(gap[:3, :3])))), found.blind,
        len(recording.blind & found.keyframes), len(recording.blind & found.live),
        float(np.mean(list(errors.values()))), max(errors.values()), round(float(nees), 2),
        near[0] + 1 if near else 0, len(recording.numbers) - len(found.poses),
        found.voxels / plain.voxels, found.fragments)


def _to_pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def cell(name: str, value: object) -> str:
    """Return a value as text; distances are shares."""
    if name in ('moved', 'mean', 'largest', 'voxels'):
        return f'{value:.1%}'
    return str(value)


def main() -> int:
    """Run all defects, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--bag', type=Path, default=share_directory() / 'bags' / 'demo_room')
    parser.add_argument('--defects', nargs='+', choices=[*DEFECTS, *PARTIAL],
                        default=list(DEFECTS))
    parser.add_argument('--inserted', nargs='*', type=int, default=[20, 50], metavar='COUNT')
    parser.add_argument('--replaced', nargs='*', type=int, default=[3, 5, 8, 10, 15, 20],
                        metavar='COUNT', help='of black images; all defects with the last count')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', dest='changes')
    parser.add_argument('--output', type=Path, default=Path('output/blind_images.json'))
    arguments = parser.parse_args()
    logging.getLogger('spann3r_ros').setLevel(logging.ERROR)
    config = from_values(parse_values(arguments.changes)).mapper
    frames = bag_frames(arguments.bag)
    network = open_network(resolve_checkpoint(''))
    plain = map_frames(network, whole(frames))
    cases = [(defect, count, True) for count in arguments.inserted[:1]
             for defect in arguments.defects]
    cases += [('black', count, True) for count in arguments.inserted[1:]]
    cases += [('black', count, False) for count in arguments.replaced]
    cases += [(defect, count, False) for count in arguments.replaced[-1:]
              for defect in arguments.defects if defect != 'black']
    outcomes = [measure(network, frames, plain, *case, config)
                for case in tqdm(cases, 'recordings', mininterval=1.0)]
    names = list(asdict(outcomes[0]))
    print(format_table(names, [[cell(name, value) for name, value in asdict(one).items()]
                               for one in outcomes]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, [asdict(one) for one in outcomes])
    return 0


if __name__ == '__main__':
    sys.exit(main())
