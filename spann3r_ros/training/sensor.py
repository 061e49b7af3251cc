# SPDX-License-Identifier: Apache-2.0
"""Imperfections of the camera that takes the pictures."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .draw import Draw

_GRAIN_POOL = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Grey levels of 255 for N frames: `gain` [N, 3, 1, 1], `offset` and `noise` [N, 1, 1, 1].

    `grain` int64 [N] is where each frame's noise begins in the sensor's pool.
    """

    gain: Tensor
    offset: Tensor
    noise: Tensor
    grain: Tensor

    def select(self, index: slice) -> 'Settings':
        """Choose frames by a slice."""
        return Settings(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device) -> 'Settings':
        """Move to another device."""
        return Settings(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class Sensor:
    """Camera with random exposure, white balance and pixel noise.

    `exposure` and `balance` bound the logarithm of the gain, common to and by channel; most of
    both is fixed for a sequence. `noise` bounds the deviation of the pixel noise, of full scale.
    """

    def __init__(
        self, exposure: float, balance: float, noise: float, draw: Draw, device: torch.device
    ) -> None:
        self._exposure, self._balance, self._noise = exposure, balance, noise
        self._draw = draw
        self._device = device
        # Normal numbers for each pixel would cost as much as the scene: frames cut from a pool.
        self._pool = draw.normal(_GRAIN_POOL).to(device)

    def settings(self, count: int, frames: int, values: int) -> Settings:
        """Draw the settings of `count` sequences of `frames` images of `values` numbers."""
        exposure = self._exposure * self._around(count, frames, 1)
        balance = self._balance * self._around(count, frames, 3)
        offset = 0.3 * self._balance * self._draw.uniform(-1, 1, count * frames)
        noise = self._noise * self._draw.uniform(0, 1, count)
        return Settings(
            255 * (exposure + balance).exp().flatten(0, 1)[..., None, None],
            255 * offset[:, None, None, None],
            255 * noise.repeat_interleave(frames)[:, None, None, None],
            self._draw.integers(_GRAIN_POOL - values + 1, count * frames),
        ).to(self._device)

    def expose(self, color: Tensor, settings: Settings) -> Tensor:
        """Picture uint8 [N, 3, H, W] of colours [N, 3, H, W] in 0..1."""
        image = color * settings.gain + settings.offset
        if self._noise > 0:
            grain = self._pool.unfold(0, image[0].numel(), 1)[settings.grain]
            image.addcmul_(grain.view(image.shape), settings.noise)
        return image.clamp_(0, 255).round_().byte()

    def _around(self, count: int, frames: int, channels: int) -> Tensor:
        fixed = self._draw.uniform(-1, 1, count, 1, channels)
        return fixed + 0.25 * self._draw.uniform(-1, 1, count, frames, channels)
