# SPDX-License-Identifier: Apache-2.0
"""Places: image sequences of furnished rooms with exact geometry, for training."""
from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.rooms.assets.asset_pack import PHOTOGRAPH_SIZE, AssetPack
from spann3r_ros.rooms.draw import Draw
from spann3r_ros.rooms.paths import Walk, world_from_camera
from spann3r_ros.rooms.raycast import Rays, exact_products, poses_in_first, unproject
from spann3r_ros.rooms.sensor import Sensor, check_image_size
from spann3r_ros.rooms.textures import TextureBank, build_bank, draw_textures

from .camera_effects import CameraEffects
from .camera_walks import draw_walk
from .drawn_ahead import PlaceDrawings
from .place import Place
from .place_shading import Lighting, PlaceTable, Samples, sample_depth, shade
from .visibility import Caster, check_embree, open_caster

PATTERNS_SEED, PATTERN_SIZE = 3, 128
WALKS_PER_PLACE = 4
BANK_CHUNK = 64  # textures that are converted at once


@dataclass(frozen=True)
class PlaceConfig:
    """The distributions of cameras.

    `height` and `width` are those of the images unless a batch asks for others.
    `field_of_view_deg` bounds the horizontal angle of view; `exposure`, `balance`, `noise`,
    `vignetting` and `streak` are those of `Sensor`, the last as a share of the image's width.
    `patterns` is the number of procedural textures beside those of the pack. ValueError for a size
    or an angle that is out of bounds.
    """

    height: int = 120
    width: int = 160
    field_of_view_deg: tuple[float, float] = (45.0, 95.0)
    exposure: float = 0.12
    balance: float = 0.1
    noise: float = 0.03
    vignetting: float = 0.35
    streak: float = 0.02
    patterns: int = 140

    def __post_init__(self) -> None:
        check_image_size(self.height, self.width)
        low, high = self.field_of_view_deg
        if not 10 <= low <= high <= 150:
            raise ValueError(f'field_of_view_deg: expected 10 to 150 degrees, rising, '
                             f'got {low} to {high}')


@dataclass(frozen=True)
class PlaceBatch:
    """B sequences of F frames; metres, optical cameras.

    `images` uint8 [B, F, 3, H, W]; `points` float32 [B, F, H, W, 3] in the frame of the first
    camera; `depth` float32 [B, F, H, W] along the optical axis, 0: nothing there; `camera_poses`
    [B, F, 4, 4] maps a camera's frame to the first camera's; `intrinsics` [B, 3, 3].
    """

    images: Tensor
    points: Tensor
    depth: Tensor
    camera_poses: Tensor
    intrinsics: Tensor


@dataclass(frozen=True)
class LitPlace:
    """A place on a device, ready for views."""

    place: Place
    caster: Caster
    table: PlaceTable
    lighting: Lighting

    @classmethod
    def of(cls, place: Place, device: torch.device) -> LitPlace:
        """Prepare a place: its triangles and the shadows of its lamps."""
        surfaces = place.surfaces.to(device)
        caster, table = open_caster(surfaces), PlaceTable.of(surfaces)
        return cls(place, caster, table, Lighting.of(place, caster, table))

    def shade(self, bank: TextureBank, samples: Samples) -> Tensor:
        """Return the linear colours [P, 3] of what samples hit."""
        return shade(self.table, bank, samples, self.lighting)

    def view(self, bank: TextureBank, rays: Rays) -> tuple[Tensor, Tensor]:
        """Return the light [N, 3, H, W] and the depth [N, H, W] of pixels.

        The depth is that of a pixel's centre. Its light is that of the centre too, unless a corner
        sees another triangle: then it is a mean of the centre, twice, and of two opposite corners.
        Within a triangle the textures are smoothed already.
        """
        centre = self.caster.first_hits(rays)
        corners = Rays(rays.origin, rays.rotation, _half_a_pixel_on(rays.columns),
                       _half_a_pixel_on(rays.rows))
        after = self.caster.first_hits(corners)
        differs_after = after != centre
        differs_before = _previous(after, centre) != centre
        wanted = differs_after.clone()
        wanted[:, :-1, :-1] |= differs_before[:, 1:, 1:]
        samples = Samples.of(rays, centre)
        light = self.shade(bank, samples).view(*centre.shape, 3)
        other = torch.zeros_like(light)
        other[wanted] = self.shade(bank, Samples.of(corners, after).select(wanted.flatten()))
        mixed = (2 * light + torch.where(differs_after[..., None], other, light)
                 + torch.where(differs_before[..., None], _previous(other, light), light)) / 4
        return (mixed.movedim(3, 1).contiguous(),
                sample_depth(self.table, samples).view(centre.shape))


class PlaceGenerator:
    """A source of batches; sequence n depends on the seed and n alone.

    Four consecutive sequences share a place, as building it costs as much as several images of it.
    """

    def __init__(self, config: PlaceConfig, pack: AssetPack, seed: int,
                 device: str | torch.device = 'cpu', bank: TextureBank | None = None) -> None:
        self.config = config
        self.device = torch.device(device)
        self._pack = pack
        self._seed = seed
        self._drawn = 0
        self._bank = bank or load_bank(pack, config.patterns, self.device)
        if self.device.type == 'cpu':
            check_embree()
        self._last: tuple[int, LitPlace] | None = None
        # On a CPU the drawing is a small part of a step. A GPU would wait for it.
        workers = 0 if self.device.type == 'cpu' else min(8, os.cpu_count() or 1)
        self._drawings = PlaceDrawings(pack, config.patterns, seed, workers)
        self._draw = Draw(seed)
        self._sensor = Sensor(config.exposure, config.balance, config.noise, config.vignetting,
                              config.streak, self._draw, self.device)

    def batch(self, batch_size: int, frames: int, motion: float = 1.0,
              image_size: tuple[int, int] | None = None) -> PlaceBatch:
        """Draw new places and walks, and render them; `motion` scales the walks' steps.

        `image_size` is the height and width of the images.
        """
        size = check_image_size(*(image_size or (self.config.height, self.config.width)))
        parts = []
        with exact_products():
            for _ in range(batch_size):
                parts.append(self._sequence(self._drawn, frames, motion, size))
                self._drawn += 1
        return PlaceBatch(*(torch.stack(item) for item in zip(*parts, strict=True)))

    def state(self) -> Tensor:
        """Return the number of sequences drawn so far, int64."""
        return torch.tensor(self._drawn)

    def restore(self, state: Tensor) -> None:
        """Continue with the batches that followed a saved state."""
        self._drawn = int(state)

    def _sequence(self, number: int, frames: int, motion: float,
                  size: tuple[int, int]) -> tuple[Tensor, ...]:
        lit = self._lit_place(number // WALKS_PER_PLACE)
        rng = np.random.default_rng((self._seed, 1, number))
        walk = draw_walk(lit.place, frames, motion, rng)
        rays, intrinsics = self._rays(walk.origin, walk.heading, size, rng)
        light, depth = lit.view(self._bank, rays)
        effects = CameraEffects.draw(rng)
        self._draw.generator.manual_seed(int(rng.integers(1 << 62)))
        settings = self._sensor.settings(1, frames, *size)
        images = effects.compress(self._sensor.expose(effects.develop(light), settings))
        poses = poses_in_first(rays.origin[None], rays.rotation[None])[0][0]
        points = torch.empty(*depth.shape, 3, device=self.device)
        unproject(rays, poses, depth, points)
        return images, points, depth, poses, intrinsics

    def _lit_place(self, number: int) -> LitPlace:
        """Return a place of this generator by its number."""
        if self._last is None or self._last[0] != number:
            self._last = number, LitPlace.of(self._drawings.get(number), self.device)
        return self._last[1]

    def _rays(self, origin: np.ndarray, heading: np.ndarray, size: tuple[int, int],
              rng: np.random.Generator) -> tuple[Rays, Tensor]:
        height, width = size
        angle = np.radians(rng.uniform(*self.config.field_of_view_deg))
        focal = width / 2 / np.tan(angle / 2)
        centre = [(pixels - 1) / 2 + rng.normal() * 0.01 * pixels for pixels in (width, height)]
        matrix = torch.eye(3)
        matrix[0, 0] = matrix[1, 1] = float(focal)
        matrix[:2, 2] = torch.tensor(centre)
        yaw, pitch, roll = torch.from_numpy(heading.astype(np.float32))[None].unbind(-1)
        turned = world_from_camera(Walk(yaw, yaw, yaw, pitch, roll))[0]
        frames = len(origin)
        columns = ((torch.arange(width) - matrix[0, 2]) / matrix[0, 0]).expand(frames, -1)
        rows = ((torch.arange(height) - matrix[1, 2]) / matrix[1, 1]).expand(frames, -1)
        rays = Rays(torch.from_numpy(origin.astype(np.float32)), turned, columns, rows)
        return rays.to(self.device), matrix.to(self.device)


def _half_a_pixel_on(places: Tensor) -> Tensor:
    """Return evenly spaced coordinates [N, W], moved by half a pixel."""
    return places + (places[:, 1:2] - places[:, :1]) / 2


def _previous(image: Tensor, first: Tensor) -> Tensor:
    """Return images [N, H, W, ...] moved by a row and a column, the first ones from `first`."""
    moved = first.clone()
    moved[:, 1:, 1:] = image[:, :-1, :-1]
    return moved


def load_bank(pack: AssetPack, patterns: int, device: str | torch.device = 'cpu') -> TextureBank:
    """Return the textures of a pack, then procedural patterns, then a white one."""
    parts = []
    for start in range(0, len(pack.textures), BANK_CHUNK):
        chunk = [_resized(torch.from_numpy(pack.decode(index)).permute(2, 0, 1)[None] / 255.0)
                 for index in range(start, min(start + BANK_CHUNK, len(pack.textures)))]
        parts.append(build_bank(torch.cat(chunk)).texels)
    drawn = _muted(draw_textures(patterns, PATTERN_SIZE, PATTERNS_SEED))
    parts.append(build_bank(_resized(drawn)).texels)
    parts.append(build_bank(torch.ones(1, 3, PHOTOGRAPH_SIZE, PHOTOGRAPH_SIZE)).texels)
    return TextureBank(torch.cat(parts).to(device), PHOTOGRAPH_SIZE)


def _muted(patterns: Tensor) -> Tensor:
    """Return textures [N, 3, S, S] with less colour and contrast, in growing degrees."""
    order = torch.randperm(len(patterns), generator=torch.Generator().manual_seed(PATTERNS_SEED))
    strength = torch.linspace(0.05, 0.7, len(patterns))[order][:, None, None, None]
    grey = patterns.mean(1, keepdim=True)
    color = grey + strength * (patterns - grey)
    mean = color.mean((2, 3), keepdim=True)
    return (mean + (0.3 + strength) * (color - mean)).clamp(0, 1)


def _resized(textures: Tensor) -> Tensor:
    """Return textures [N, 3, S, S] at the size of the photographs."""
    if textures.shape[-1] == PHOTOGRAPH_SIZE:
        return textures
    return torch.nn.functional.interpolate(
        textures, size=(PHOTOGRAPH_SIZE,) * 2, mode='bilinear', align_corners=False)
