# SPDX-License-Identifier: Apache-2.0
"""Endless procedural rooms: image sequences with exact geometry, to train and evaluate on."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spann3r_ros.training.raycast import (
    BOXES, CYLINDERS, FACES, SOLIDS, SPHERES, Rays, Scenes, View, cast, distances,
    in_view, shade,
)  # fmt: skip
from spann3r_ros.training.textures import make_texture_bank

TRAJECTORIES = ('train', 'turn')


@dataclass(frozen=True)
class RoomConfig:
    """What the rooms, the camera and its motion are drawn from; metres, degrees, pixels.

    Steps are per frame at full motion; ranges are (low, high). Raises ValueError if a size or the
    field of view makes no image.
    """

    size: int = 96
    field_of_view_deg: float = 80.0
    field_of_view_jitter_deg: float = 0.0
    textures: int = 384
    texture_size: int = 128
    room_side: tuple[float, float] = (3.2, 7.0)
    room_height: tuple[float, float] = (2.4, 3.2)
    camera_height: tuple[float, float] = (1.1, 1.7)
    path_radius: tuple[float, float] = (0.12, 0.3)
    yaw_step_deg: float = 34.0
    path_step: float = 0.35
    pitch_deg: float = 12.0
    roll_deg: float = 5.0
    clearance: float = 0.3
    exposure: float = 0.35
    gain: float = 0.06
    noise: float = 0.02
    chunk: int = 0

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f'size: expected at least 8 pixels, got {self.size}')
        widest = self.field_of_view_deg + self.field_of_view_jitter_deg
        narrowest = self.field_of_view_deg - self.field_of_view_jitter_deg
        if not 10 <= narrowest <= widest <= 150:
            raise ValueError(
                'field_of_view_deg: expected 10 to 150 degrees with its jitter, '
                f'got {narrowest} to {widest}'
            )


@dataclass(frozen=True)
class RoomBatch:
    """B sequences of F frames with their truth; metres, OpenCV optical cameras, world z up.

    `images` uint8 [B, F, 3, H, W]; `points` float32 [B, F, H, W, 3] in the frame of the first
    camera; `depth` float32 [B, F, H, W] along the optical axis; `camera_poses` [B, F, 4, 4] maps
    a camera's frame to the first camera's; `intrinsics` [B, 3, 3] with pixel centres at whole
    numbers; `room_size` [B, 3], the room spanning 0 to it in the world; `world_from_first`
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
    """Source of batches; the same configuration and seeds give the same batches in order.

    `textures_seed` draws the bank of textures, `seed` everything else. Scenes and paths are drawn
    on the CPU and so the same for every device.
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
        self._random = torch.Generator().manual_seed(seed)
        self._grain = torch.randn(1 << 20, generator=self._random).to(self.device)
        self._bank = make_texture_bank(
            config.textures, config.texture_size, textures_seed, self.device
        )
        self._chunk = config.chunk or (4 if self.device.type == 'cpu' else 1024)

    def batch(
        self,
        batch_size: int,
        frames: int,
        motion: float = 1.0,
        trajectory: str = 'train',
        turn_deg_per_frame: float = 9.0,
        turn_path_step: float | None = None,
    ) -> RoomBatch:
        """Draw new rooms and walk through them.

        `motion` scales the steps and tilts of the `train` trajectory. `turn` yaws by
        `turn_deg_per_frame` and moves `turn_path_step` rad along the ellipse per frame (by
        default 0.12 rad per 9 degrees), level. Raises ValueError for an unknown trajectory.
        """
        if trajectory not in TRAJECTORIES:
            raise ValueError(f'trajectory: expected one of {TRAJECTORIES}, got {trajectory!r}')
        if trajectory == 'train':
            angles = self._wander(batch_size, frames, motion)
        else:
            if turn_path_step is None:
                turn_path_step = 0.12 * turn_deg_per_frame / 9.0
            angles = self._turn(batch_size, frames, turn_deg_per_frame, turn_path_step)
        room_size = self._room_sizes(batch_size)
        origin = self._positions(room_size, *angles[:2])
        rotation = _world_from_camera(*angles[2:])
        scenes = self._scenes(room_size)
        near = torch.stack([distances(scenes, p) for p in origin.unbind(1)]).amin(0)
        touched = near < self.config.clearance
        touched[:, 0] = False
        return self._render(scenes.without(touched), room_size, origin, rotation)

    def state(self) -> Tensor:
        """Return the random state, for a run that is to be resumed."""
        return self._random.get_state()

    def restore(self, state: Tensor) -> None:
        """Continue with the batches that followed `state`."""
        self._random.set_state(state)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self._random)

    def _room_sizes(self, count: int) -> Tensor:
        sides = self._uniform(*self.config.room_side, count, 2)
        return torch.cat((sides, self._uniform(*self.config.room_height, count, 1)), 1)

    def _smooth(self, count: int, frames: int) -> Tensor:
        """Smooth random signals [count, frames] between -1 and 1."""
        time = torch.arange(frames, dtype=torch.float32)
        rate, phase = self._uniform(0.1, 0.9, count, 2, 1), self._uniform(0, 7, count, 2, 1)
        return torch.sin(rate * time + phase).mean(1)

    def _wander(self, count: int, frames: int, motion: float) -> tuple[Tensor, ...]:
        """Random walk: place on the ellipse, height offset in -1..1, yaw, pitch and roll."""
        config = self.config
        steps = []
        for largest in (config.path_step, math.radians(config.yaw_step_deg)):
            mean = self._uniform(-0.75, 0.75, count, 1)
            spread = 1 - mean.abs()
            step = motion * largest * (mean + spread * self._smooth(count, frames))
            steps.append(self._uniform(0, 2 * math.pi, count, 1) + step.cumsum(1))
        tilt = min(1.0, motion)
        base = self._uniform(-0.5, 0.5, count, 1)
        height = base + 0.5 * tilt * self._smooth(count, frames)
        pitch, roll = (
            math.radians(limit)
            * (self._uniform(-0.5, 0.5, count, 1) + 0.5 * tilt * self._smooth(count, frames))
            for limit in (config.pitch_deg, config.roll_deg)
        )
        return steps[0], height, steps[1], pitch, roll

    def _turn(
        self, count: int, frames: int, degrees: float, path_step: float
    ) -> tuple[Tensor, ...]:
        """Steady level turn in the form of `_wander`."""
        time = torch.arange(frames, dtype=torch.float32)
        place = self._uniform(0, 2 * math.pi, count, 1) + path_step * time
        yaw = self._uniform(0, 2 * math.pi, count, 1) + math.radians(degrees) * time
        height = self._uniform(-1, 1, count, 1).expand(count, frames)
        level = torch.zeros(count, frames)
        return place, height, yaw, level, level

    def _positions(self, room_size: Tensor, place: Tensor, height: Tensor) -> Tensor:
        """Camera centres [B, F, 3] in the world, on an ellipse near the middle of the room."""
        count = len(room_size)
        radius = room_size[:, :2] * self._uniform(*self.config.path_radius, count, 2)
        centre = room_size[:, :2] * self._uniform(0.43, 0.57, count, 2)
        circle = torch.stack((place.cos(), place.sin()), -1)
        low, high = self.config.camera_height
        level = (low + high) / 2 + (high - low) / 2 * height
        flat = centre[:, None] + radius[:, None] * circle
        return torch.cat((flat, level[..., None]), -1)

    def _scenes(self, room_size: Tensor) -> Scenes:
        """Furnished rooms: solids pushed towards the walls, some hung on them as pictures."""
        count = len(room_size)
        picture = torch.zeros(count, SOLIDS, dtype=torch.bool)
        picture[:, BOXES] = self._uniform(0, 1, count, 5) < 0.25
        half = self._half_extents(picture)
        wall = torch.randint(4, (count, SOLIDS), generator=self._random)
        faces_x = (wall < 2) & picture
        half = torch.where(faces_x[..., None], half[..., [1, 0, 2]], half)

        turned = (self._uniform(0, 1, count, SOLIDS) < 0.5) & ~picture
        turned[:, :1] = False
        angle = self._uniform(0, math.pi, count, SOLIDS) * turned
        cos, sin = angle.cos(), angle.sin()
        centre = self._centres(room_size, half, cos, sin, wall, picture)
        centre[:, 0] = half[:, 0] = room_size / 2
        absent = self._uniform(0, 1, count, SOLIDS) < 0.15
        absent[:, 0] = False
        texture, tiling, tint = self._surfaces(half, picture)
        light = torch.randn(count, 3, generator=self._random)
        light[:, 2] = light[:, 2].abs() + 0.3
        return Scenes(
            centre, half, torch.stack((cos, sin), -1), texture, tiling, tint,
            light / light.norm(dim=-1, keepdim=True), self._uniform(0.35, 0.8, count),
        ).without(absent)  # fmt: skip

    def _half_extents(self, picture: Tensor) -> Tensor:
        count = len(picture)
        box = torch.stack([self._uniform(0.15, high, count, SOLIDS) for high in (0.7, 0.7, 1.0)], -1)
        flat = (self._uniform(0.25, 0.8, count, SOLIDS), self._uniform(0.01, 0.04, count, SOLIDS),
                self._uniform(0.2, 0.6, count, SOLIDS))  # fmt: skip
        half = torch.where(picture[..., None], torch.stack(flat, -1), box)
        half[:, SPHERES] = self._uniform(0.15, 0.5, count, 2, 1)
        half[:, CYLINDERS, :2] = self._uniform(0.1, 0.4, count, 2, 1)
        return half

    def _centres(
        self, room_size: Tensor, half: Tensor, cos: Tensor, sin: Tensor, wall: Tensor,
        picture: Tensor,
    ) -> Tensor:  # fmt: skip
        """Middles of the solids [B, SOLIDS, 3], all of each inside its room."""
        count = len(room_size)
        extent_x = cos.abs() * half[..., 0] + sin.abs() * half[..., 1]
        extent_y = sin.abs() * half[..., 0] + cos.abs() * half[..., 1]
        round_solids = slice(SPHERES.start, CYLINDERS.stop)
        extent_x[:, round_solids] = extent_y[:, round_solids] = half[:, round_solids, 0]
        extent = torch.stack((extent_x, extent_y, half[..., 2]), -1)
        away = 0.35 * self._uniform(0, 1, count, SOLIDS).square() * ~picture
        away = torch.where(wall % 2 == 0, away, 1 - away)
        along = self._uniform(0, 1, count, SOLIDS)
        lifted = self._uniform(0, 1, count, SOLIDS) < 0.25
        height = torch.where(picture, self._uniform(0.3, 0.7, count, SOLIDS),
                             self._uniform(0, 1, count, SOLIDS) * lifted)  # fmt: skip
        on_x = wall < 2
        share = torch.stack(
            (torch.where(on_x, away, along), torch.where(on_x, along, away), height), -1
        )
        return extent + share * (room_size[:, None] - 2 * extent).clamp_min(0)

    def _surfaces(self, half: Tensor, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Texture, tiling and tint of every face: own on room faces and half of the boxes."""
        count = len(half)
        shape = (count, SOLIDS, FACES)
        texture = torch.randint(self.config.textures, shape, generator=self._random)
        tile = (self._uniform(math.log(0.5), math.log(3.5), *shape)).exp()
        tile[:, 1:] *= 0.6
        squeeze = self._uniform(-0.25, 0.25, *shape).exp()
        tint = self._uniform(0.55, 1.25, *shape, 3)
        alike = self._uniform(0, 1, count, SOLIDS, 1) < 0.5
        alike[:, 0] = False
        texture = torch.where(alike, texture[..., :1], texture)
        tint = torch.where(alike[..., None], tint[..., :1, :], tint)
        tile = torch.where(alike, tile[..., :1], tile)
        rate = torch.stack((1 / (tile * squeeze), squeeze / tile), -1)
        offset = self._uniform(0, 1, *shape, 2)
        # One tile spans a picture exactly.
        across = torch.maximum(half[..., 0], half[..., 1])
        whole = 0.5 / torch.stack((across, half[..., 2]), -1)[:, :, None]
        hung = picture[..., None, None]
        rate, offset = torch.where(hung, whole, rate), torch.where(hung, 0.5, offset)
        return texture.int(), torch.cat((rate, offset), -1), tint

    def _render(
        self, scenes: Scenes, room_size: Tensor, origin: Tensor, rotation: Tensor
    ) -> RoomBatch:
        count, frames = origin.shape[:2]
        size, device = self.config.size, self.device
        intrinsics = self._intrinsics(count)
        grid = (torch.arange(size) - intrinsics[:, :1, 2]) / intrinsics[:, :1, 0]
        first = rotation[:, :1].transpose(-1, -2)
        poses = torch.eye(4).repeat(count, frames, 1, 1)
        poses[..., :3, :3] = first @ rotation
        poses[..., :3, 3] = (first @ (origin - origin[:, :1])[..., None])[..., 0]
        world = torch.eye(4).repeat(count, 1, 1)
        world[:, :3, :3], world[:, :3, 3] = rotation[:, 0], origin[:, 0]

        owner = torch.arange(count).repeat_interleave(frames)
        scenes, grid = scenes.select(owner), grid[owner]
        rays = Rays(origin.flatten(0, 1), rotation.flatten(0, 1), grid, grid)
        visible = in_view(scenes, rays)
        scenes, rays, flat_poses = scenes.to(device), rays.to(device), poses.flatten(0, 1)
        flat_poses = flat_poses.to(device)
        gain, bias, noise = self._camera(count, frames)
        images = torch.empty(count * frames, 3, size, size, dtype=torch.uint8, device=device)
        points = torch.empty(count * frames, size, size, 3, device=device)
        depths = torch.empty(count * frames, size, size, device=device)
        for start in range(0, count * frames, self._chunk):
            part = slice(start, start + self._chunk)
            view = View.of(scenes.select(part), rays.select(part))
            nearness, surface = cast(view, visible[part].any(0).nonzero().flatten().tolist())
            depth = nearness.reciprocal_()
            color = shade(view, self._bank, depth, surface).transpose(0, 1)
            images[part] = self._expose(color, gain[part], bias[part], noise[part])
            depths[part] = depth
            for i in range(3):
                shift = flat_poses[part, i, 3, None, None]
                points[part, ..., i] = view.rays.dot(flat_poses[part, i, :3]).mul_(depth).add_(shift)
        shape = (count, frames)
        return RoomBatch(
            images.unflatten(0, shape), points.unflatten(0, shape), depths.unflatten(0, shape),
            poses.to(device), intrinsics.to(device), room_size.to(device), world.to(device),
        )  # fmt: skip

    def _intrinsics(self, count: int) -> Tensor:
        jitter = self.config.field_of_view_jitter_deg
        angle = self.config.field_of_view_deg + self._uniform(-jitter, jitter, count)
        matrix = torch.eye(3).repeat(count, 1, 1)
        size = self.config.size
        matrix[:, 0, 0] = matrix[:, 1, 1] = size / 2 / torch.tan(torch.deg2rad(angle) / 2)
        matrix[:, :2, 2] = (size - 1) / 2
        return matrix

    def _camera(self, count: int, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gain per channel, offset and noise of each frame in grey levels of 255."""
        config = self.config
        exposure = config.exposure * self._uniform(-1, 1, count, 1, 1)
        exposure = exposure + 0.25 * config.exposure * self._uniform(-1, 1, count, frames, 1)
        white = config.gain * self._uniform(-1, 1, count, 1, 3)
        white = white + 0.25 * config.gain * self._uniform(-1, 1, count, frames, 3)
        gain = 255 * (exposure + white).exp().flatten(0, 1)[..., None, None]
        bias = 255 * 0.3 * config.gain * self._uniform(-1, 1, count * frames, 1, 1, 1)
        noise = 255 * config.noise * self._uniform(0, 1, count, 1).expand(-1, frames)
        noise = noise.reshape(-1, 1, 1, 1)
        return gain.to(self.device), bias.to(self.device), noise.to(self.device)

    def _expose(self, color: Tensor, gain: Tensor, bias: Tensor, noise: Tensor) -> Tensor:
        image = color * gain + bias
        if self.config.noise > 0:
            # Drawing normal numbers per pixel costs as much as the scene: cut them from a pool.
            windows = self._grain.unfold(0, image[0].numel(), 1)
            place = torch.randint(len(windows), (len(image),), generator=self._random)
            image.addcmul_(windows[place.to(self.device)].view(image.shape), noise)
        return image.clamp_(0, 255).round_().byte()


def _world_from_camera(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Rotations [..., 3, 3] from an optical camera to the world with z up; radians.

    Yaw turns left from world x, pitch looks up, roll turns the image about its axis.
    """
    zero = torch.zeros_like(yaw)
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    forward = torch.stack((cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch), -1)
    right = torch.stack((sin_yaw, -cos_yaw, zero), -1)
    down = torch.linalg.cross(forward, right)
    cos_roll, sin_roll = roll.cos()[..., None], roll.sin()[..., None]
    axes = (cos_roll * right + sin_roll * down, cos_roll * down - sin_roll * right, forward)
    return torch.stack(axes, -1)
