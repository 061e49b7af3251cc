# SPDX-License-Identifier: Apache-2.0
"""What a camera does to the light of a place: exposure, tone, defocus, JPEG."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8
# Steps of the quantisation at quality 50, which grow with the frequency: brightness, colour.
_STEPS = ((10.0, 9.0), (17.0, 16.0))
_YCC_FROM_RGB = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))
# Blur of a sharp camera, in pixels: edges of rendered triangles have none.
_SHARPEST = 0.45


@dataclass(frozen=True)
class CameraEffects:
    """The effects of one sequence.

    `brightness` is the mean of its images in 0..1, `contrast` an exponent, `saturation` a factor,
    `defocus` a deviation in pixels, and `quality` that of JPEG, 0: not compressed.
    """

    brightness: float
    contrast: float
    saturation: float
    defocus: float
    quality: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> CameraEffects:
        """Draw the effects of a sequence."""
        soft = rng.random() < 0.25
        return cls(rng.uniform(0.28, 0.6), rng.uniform(0.8, 1.3), rng.uniform(0.25, 1.1),
                   rng.uniform(0.6, 1.3) if soft else rng.uniform(_SHARPEST, 0.6),
                   rng.uniform(25, 95) if rng.random() < 0.5 else 0.0)

    def develop(self, light: Tensor) -> Tensor:
        """Return colours in 0..1 of linear light [N, 3, H, W]; bright parts saturate."""
        # By roots, so that a lamp in view hardly darkens the rest.
        mean = light.sqrt().mean().clamp_min(1e-3)
        color = (light * (self.brightness / mean).square()).clamp_(0.0, 1.0).sqrt_()
        color = color ** self.contrast * self.brightness ** (1 - self.contrast)
        grey = color.mean(1, keepdim=True)
        color = grey + self.saturation * (color - grey)
        return defocus(color.clamp_(0.0, 1.0), self.defocus)

    def compress(self, images: Tensor) -> Tensor:
        """Return images uint8 [N, 3, H, W] after JPEG."""
        return compress(images, self.quality) if self.quality else images


def defocus(color: Tensor, deviation: float) -> Tensor:
    """Blur images [N, 3, H, W] by a Gaussian, its deviation in pixels."""
    reach = max(1, math.ceil(2 * deviation))
    place = torch.arange(-reach, reach + 1.0, device=color.device)
    kernel = (-0.5 * (place / deviation).square()).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(color, (reach,) * 4, mode='replicate')
    rows = F.conv2d(padded, kernel[..., None], groups=3)
    return F.conv2d(rows, kernel[:, :, None], groups=3)


def compress(images: Tensor, quality: float) -> Tensor:
    """Return uint8 images [N, 3, H, W] with the losses of JPEG at a quality of 1 to 100."""
    height, width = images.shape[-2:]
    device = images.device
    values = F.pad(images.float() - 128.0, (0, -width % BLOCK, 0, -height % BLOCK),
                   mode='replicate')
    matrix = torch.tensor(_YCC_FROM_RGB, device=device)
    planes = torch.einsum('ij,njhw->nihw', matrix, values)
    count, _, rows, columns = planes.shape
    blocks = planes.view(count, 3, rows // BLOCK, BLOCK, columns // BLOCK, BLOCK).transpose(3, 4)
    basis = _cosines(device)
    steps = _quantisation(quality, device)
    coded = ((basis @ blocks @ basis.T) / steps).round_() * steps
    blocks = basis.T @ coded @ basis
    planes = blocks.transpose(3, 4).reshape(count, 3, rows, columns)
    result = torch.einsum('ij,njhw->nihw', torch.linalg.inv(matrix), planes) + 128.0
    return result[..., :height, :width].clamp_(0, 255).round_().byte()


def _cosines(device: torch.device) -> Tensor:
    """Return the orthonormal cosine transform of eight values, [8, 8]."""
    place = torch.arange(BLOCK, device=device)
    basis = (math.pi / BLOCK * (place + 0.5) * place[:, None]).cos() * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def _quantisation(quality: float, device: torch.device) -> Tensor:
    """Return the steps of the three planes, [3, 1, 1, 8, 8]."""
    scale = 50.0 / quality if quality < 50 else 2.0 - quality / 50.0
    place = torch.arange(BLOCK, device=device)
    frequency = (place[:, None] + place).float()
    planes = [(base + growth * frequency) * max(scale, 0.02)
              for base, growth in (_STEPS[0], _STEPS[1], _STEPS[1])]
    return torch.stack(planes).clamp_min(1.0)[:, None, None]
