# SPDX-License-Identifier: Apache-2.0
"""A camera model with random exposure, noise, vignetting and motion blur."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from .draw import Draw

_GRAIN_POOL = 1 << 20
_SHUTTER_STEPS = 7


def check_image_size(height: int, width: int) -> tuple[int, int]:
    """Return the size of an image, or raise ValueError for one that is too small or too large."""
    if min(height, width) < 8 or 3 * height * width > _GRAIN_POOL:
        raise ValueError(f'image size: expected sides of 8 pixels or more and at most '
                         f'{_GRAIN_POOL // 3} pixels, got {height} x {width}')
    return height, width


@dataclass(frozen=True)
class Settings:
    """Grey levels of 255 for N frames: `gain` [N, 3, 1, 1], `offset` and `noise` [N, 1, 1, 1].

    `grain` int64 [N] is the start of each frame's noise in the sensor's pool. `shade` [N, 1, H, W]
    is the share of light that reaches each pixel, `smear` [N, K, K] the kernel of the motion blur;
    both have N = 0 for a sensor without this effect.
    """

    gain: Tensor
    offset: Tensor
    noise: Tensor
    grain: Tensor
    shade: Tensor
    smear: Tensor

    def select(self, index: slice) -> 'Settings':
        """Choose frames by a slice."""
        return Settings(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device) -> 'Settings':
        """Move to another device."""
        return Settings(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class Sensor:
    """Camera with random exposure, white balance and pixel noise.

    `exposure` and `balance` bound the logarithm of the gain of all channels and of each channel;
    both vary little within a sequence. `noise` bounds the standard deviation of the pixel noise,
    as a share of full scale. `vignetting` bounds the loss of light in the corners, `streak` the
    length of the motion blur as a share of the image's width.
    """

    def __init__(
        self, exposure: float, balance: float, noise: float, vignetting: float, streak: float,
        draw: Draw, device: torch.device,
    ) -> None:  # fmt: skip
        self._exposure, self._balance, self._noise = exposure, balance, noise
        self._vignetting, self._streak = vignetting, streak
        self._draw = draw
        self._device = device
        # Frames use parts of one pool: new numbers per pixel would cost as much as rendering.
        self._pool = draw.normal(_GRAIN_POOL).to(device)

    def settings(self, count: int, frames: int, height: int, width: int) -> Settings:
        """Draw the settings of `count` sequences of `frames` images of a size in pixels."""
        values = 3 * height * width
        exposure = self._exposure * self._around(count, frames, 1)
        balance = self._balance * self._around(count, frames, 3)
        offset = 0.3 * self._balance * self._draw.uniform(-1, 1, count * frames)
        noise = self._noise * self._draw.uniform(0, 1, count)
        return Settings(
            255 * (exposure + balance).exp().flatten(0, 1)[..., None, None],
            255 * offset[:, None, None, None],
            255 * noise.repeat_interleave(frames)[:, None, None, None],
            self._draw.integers(_GRAIN_POOL - values + 1, count * frames),
            self._shades(count, frames, height, width),
            self._smears(count, frames, width),
        ).to(self._device)

    def expose(self, color: Tensor, settings: Settings) -> Tensor:
        """Return images uint8 [N, 3, H, W] of colours [N, 3, H, W] in 0..1."""
        if len(settings.smear):
            color = _blur(color, settings.smear)
        if len(settings.shade):
            color = color * settings.shade
        image = color * settings.gain + settings.offset
        if self._noise > 0:
            grain = self._pool.unfold(0, image[0].numel(), 1)[settings.grain]
            image.addcmul_(grain.view(image.shape), settings.noise)
        return image.clamp_(0, 255).round_().byte()

    def _around(self, count: int, frames: int, channels: int) -> Tensor:
        fixed = self._draw.uniform(-1, 1, count, 1, channels)
        return fixed + 0.25 * self._draw.uniform(-1, 1, count, frames, channels)

    def _shades(self, count: int, frames: int, height: int, width: int) -> Tensor:
        if not self._vignetting:
            return torch.empty(0)
        lost = self._vignetting * self._draw.uniform(0, 1, count)[:, None, None]
        down, across = (torch.linspace(-1, 1, size).square() for size in (height, width))
        shade = 1 - lost * (down[:, None] + across) / 2
        return shade.repeat_interleave(frames, 0)[:, None]

    def _smears(self, count: int, frames: int, width: int) -> Tensor:
        """Return kernels of straight motion blur, mostly short and horizontal, as in a turn."""
        if not self._streak:
            return torch.empty(0)
        most = self._streak * width
        longest = most * self._draw.uniform(0, 1, count, 1)
        length = (longest * self._draw.uniform(0, 1, count, frames)).flatten()
        angle = 0.4 * self._draw.normal(count * frames)
        step = torch.linspace(-0.5, 0.5, _SHUTTER_STEPS) * length[:, None]
        reach = math.ceil(most / 2)
        grid = torch.arange(-reach, reach + 1.0)[:, None]
        columns, rows = (
            (1 - (grid - (step * part[:, None])[:, None]).abs()).clamp_min(0)
            for part in (angle.cos(), angle.sin())
        )
        return torch.einsum('nit,njt->nij', rows, columns) / _SHUTTER_STEPS


def _blur(color: Tensor, smear: Tensor) -> Tensor:
    """Convolve images [N, C, H, W] with one kernel [N, K, K] per image."""
    count, channels, height, width = color.shape
    edge = smear.shape[-1] // 2
    padded = F.pad(color, (edge,) * 4, mode='replicate').view(1, -1, height + 2 * edge,
                                                              width + 2 * edge)
    kernels = smear.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, kernels, groups=count * channels).view(color.shape)
