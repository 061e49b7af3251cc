# SPDX-License-Identifier: Apache-2.0
"""Procedural rooms: image sequences with exact geometry, for training and evaluation."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import partitions, paths
from .draw import Draw
from .furniture import compose
from .raycast import Rays, View, cast, exact_products, in_view, poses_in_first, unproject
from .scenes import ROOM, Scenes, distances, furnish
from .sensor import Sensor, check_image_size
from .shading import shade
from .textures import make_texture_bank

TRAJECTORIES = ('train', 'turn')
_LARGEST_SIZE = 512
_LONGEST_STREAK = 0.25


@dataclass(frozen=True)
class RoomConfig:
    """The distributions of rooms, camera and motion; metres, degrees, pixels.

    Images are `size` wide and `height` high, 0: as high as wide. The field of view is that across
    the width.
    Steps are per frame at full motion; ranges are (low, high). A share `partition_share` of the
    rooms has a second room behind a wall with a doorway, a share `composite_share` a seat with a
    back, and the same share a table. `vignetting` is the largest loss of light in the corners,
    `streak` the longest motion blur as a share of the image's width. With 0 these four do not
    change the random numbers of the rest. Raises ValueError for a size, field of view or one of
    these four that is out of bounds.
    """

    size: int = 96
    height: int = 0
    field_of_view_deg: float = 80.0
    field_of_view_jitter_deg: float = 0.0
    textures: int = 384
    texture_size: int = 128
    room_side: tuple[float, float] = (3.2, 7.0)
    room_height: tuple[float, float] = (2.4, 3.2)
    path: paths.PathConfig = field(default_factory=paths.PathConfig)
    clearance: float = 0.3
    exposure: float = 0.35
    gain: float = 0.06
    noise: float = 0.02
    partition_share: float = 0.0
    composite_share: float = 0.0
    vignetting: float = 0.0
    streak: float = 0.0
    chunk: int = 0

    def __post_init__(self) -> None:
        for name in ('size', 'height'):
            pixels = getattr(self, name)
            if not 8 <= pixels <= _LARGEST_SIZE and (name, pixels) != ('height', 0):
                raise ValueError(f'{name}: expected 8 to {_LARGEST_SIZE} pixels, got {pixels}')
        widest = self.field_of_view_deg + self.field_of_view_jitter_deg
        narrowest = self.field_of_view_deg - self.field_of_view_jitter_deg
        if not 10 <= narrowest <= widest <= 150:
            raise ValueError(
                'field_of_view_deg: expected 10 to 150 degrees with its jitter, '
                f'got {narrowest} to {widest}'
            )
        for name in ('partition_share', 'composite_share', 'vignetting', 'streak'):
            value, most = getattr(self, name), _LONGEST_STREAK if name == 'streak' else 1
            if not 0 <= value <= most:
                raise ValueError(f'{name}: expected 0 to {most}, got {value}')


@dataclass(frozen=True)
class RoomBatch:
    """B sequences of F frames with their truth; metres, OpenCV optical cameras, world z up.

    `images` uint8 [B, F, 3, H, W]; `points` float32 [B, F, H, W, 3] in the frame of the first
    camera; `depth` float32 [B, F, H, W] along the optical axis; `camera_poses` [B, F, 4, 4] maps
    a camera's frame to the first camera's; `intrinsics` [B, 3, 3] with pixel centres at whole
    numbers; `room_size` [B, 3], the outer walls spanning 0 to it in the world; `world_from_first`
    [B, 4, 4].
    """

    images: Tensor
    points: Tensor
    depth: Tensor
    camera_poses: Tensor
    intrinsics: Tensor
    room_size: Tensor
    world_from_first: Tensor


class RoomGenerator:
    """A source of batches; equal configurations and seeds give equal batches in the same order.

    `textures_seed` is for the bank of textures, `seed` for all else. Scenes and paths are drawn on
    the CPU, so that they are equal for every device.
    """

    def __init__(
        self,
        config: RoomConfig,
        seed: int,
        textures_seed: int,
        device: str | torch.device = 'cpu',
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self._draw = Draw(seed)
        self._sensor = Sensor(
            config.exposure, config.gain, config.noise, config.vignetting,
            config.streak, self._draw, self.device,
        )  # fmt: skip
        self._bank = make_texture_bank(
            config.textures, config.texture_size, textures_seed, self.device
        )
        self._chunk = config.chunk or (8 if self.device.type == 'cpu' else 1024)

    def batch(
        self,
        batch_size: int,
        frames: int,
        motion: float = 1.0,
        trajectory: str = 'train',
        turn_deg_per_frame: float = 9.0,
        turn_path_step: float | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> RoomBatch:
        """Draw new rooms and camera paths, and render them.

        `motion` scales the steps and tilts of the `train` trajectory. `turn` yaws by
        `turn_deg_per_frame` and moves `turn_path_step` rad along the ellipse per frame (by
        default 0.12 rad per 9 degrees), level. `image_size` is the height and width of the
        images, by default those of the configuration. Raises ValueError for an unknown trajectory.
        """
        if trajectory not in TRAJECTORIES:
            raise ValueError(f'trajectory: expected one of {TRAJECTORIES}, got {trajectory!r}')
        if trajectory == 'train':
            walk = paths.wander(batch_size, frames, motion, self.config.path, self._draw)
        else:
            if turn_path_step is None:
                turn_path_step = 0.12 * turn_deg_per_frame / 9.0
            walk = paths.turn(batch_size, frames, turn_deg_per_frame, turn_path_step, self._draw)
        room_size = self._room_sizes(batch_size)
        origin = paths.positions(walk, room_size, self.config.path, self._draw)
        rotation = paths.world_from_camera(walk)
        room_size, scenes = self._build(room_size, origin)
        near = torch.stack([distances(scenes, p) for p in origin.unbind(1)]).amin(0)
        too_near = near < self.config.clearance
        too_near[:, ROOM] = False
        height, width = image_size or (self.config.height or self.config.size, self.config.size)
        size = check_image_size(height, width)
        with exact_products():
            return self._render(scenes.without(too_near), room_size, origin, rotation, size)

    def state(self) -> Tensor:
        """Return the random state, uint8."""
        return self._draw.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Continue with the batches that followed a saved state."""
        self._draw.generator.set_state(state)

    def _build(self, room_size: Tensor, origin: Tensor) -> tuple[Tensor, Scenes]:
        """Return outer sizes and scenes of rooms [B, 3] with cameras at [B, F, 3]."""
        textures, draw, share = self.config.textures, self._draw, self.config.partition_share
        wall = None
        if share:
            room_size, wall = partitions.extend(room_size, share, draw)
        scenes = furnish(room_size, textures, draw)
        if self.config.composite_share:
            compose(scenes, self.config.composite_share, draw)
        if wall is not None:
            partitions.divide(scenes, wall, room_size, origin, textures, draw)
        return room_size, scenes

    def _room_sizes(self, count: int) -> Tensor:
        sides = self._draw.uniform(*self.config.room_side, count, 2)
        return torch.cat((sides, self._draw.uniform(*self.config.room_height, count, 1)), 1)

    def _render(
        self, scenes: Scenes, room_size: Tensor, origin: Tensor, rotation: Tensor,
        image_size: tuple[int, int],
    ) -> RoomBatch:  # fmt: skip
        count, frames = origin.shape[:2]
        shape, (height, width), device = (count, frames), image_size, self.device
        intrinsics = self._intrinsics(count, height, width)
        poses, world_from_first = poses_in_first(origin, rotation)
        owner = torch.arange(count).repeat_interleave(frames)
        columns, rows = (
            (torch.arange(pixels) - intrinsics[owner, axis, 2:])
            / intrinsics[owner, axis, axis, None]
            for axis, pixels in enumerate((width, height))
        )
        rays = Rays(origin.flatten(0, 1), rotation.flatten(0, 1), columns, rows)
        scenes = scenes.select(owner)
        visible = in_view(scenes, rays)
        scenes, rays, poses = scenes.to(device), rays.to(device), poses.to(device)
        settings = self._sensor.settings(count, frames, height, width)
        images = torch.empty(*shape, 3, height, width, dtype=torch.uint8, device=device)
        points = torch.empty(*shape, height, width, 3, device=device)
        depths = torch.empty(*shape, height, width, device=device)
        for start in range(0, count * frames, self._chunk):
            part = slice(start, start + self._chunk)
            view = View.of(scenes.select(part), rays.select(part))
            nearness, surface = cast(view, visible[part].any(0).nonzero().flatten().tolist())
            depth = nearness.reciprocal_()
            color = shade(view, self._bank, depth, surface).transpose(0, 1)
            images.flatten(0, 1)[part] = self._sensor.expose(color, settings.select(part))
            depths.flatten(0, 1)[part] = depth
            unproject(view.rays, poses.flatten(0, 1)[part], depth, points.flatten(0, 1)[part])
        return RoomBatch(
            images, points, depths, poses, intrinsics.to(device), room_size.to(device),
            world_from_first.to(device),
        )  # fmt: skip

    def _intrinsics(self, count: int, height: int, width: int) -> Tensor:
        jitter = self.config.field_of_view_jitter_deg
        angle = self.config.field_of_view_deg + self._draw.uniform(-jitter, jitter, count)
        matrix = torch.eye(3).repeat(count, 1, 1)
        matrix[:, 0, 0] = matrix[:, 1, 1] = width / 2 / torch.tan(torch.deg2rad(angle) / 2)
        matrix[:, 0, 2], matrix[:, 1, 2] = (width - 1) / 2, (height - 1) / 2
        return matrix
