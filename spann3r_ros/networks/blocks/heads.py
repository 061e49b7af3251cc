# SPDX-License-Identifier: Apache-2.0
"""Dense heads: decoder tokens to four raw channels per pixel, and their activation."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from spann3r_ros.networks.spann3r.config import Spann3RConfig


@dataclass(frozen=True)
class DensePrediction:
    """Points [batch, height, width, 3] in the first camera's frame, confidence as a logit.

    The raw confidence of the papers is C = 1 + exp(logit); `confidence` is
    (C - 1) / C = sigmoid(logit), in [0, 1).
    """

    points: Tensor
    logit: Tensor

    @property
    def confidence(self) -> Tensor:
        """Return the confidence [batch, height, width] in [0, 1)."""
        # In float32 the sigmoid of a logit above about 17 rounds to exactly 1.
        return self.logit.sigmoid().clamp(max=1.0 - 2.0 ** -24)

    def packed(self) -> Tensor:
        """Return points and confidence of the only image, [height, width, 4]."""
        return torch.cat((self.points, self.confidence[..., None]), dim=-1)[0]


def activate(raw: Tensor) -> DensePrediction:
    """Turn four raw channels [batch, 4, height, width] into points and confidence logits."""
    # Contiguous, because the norm of a strided view takes ten times as long in torch.
    xyz = raw[:, :3].permute(0, 2, 3, 1).contiguous()  # [batch, height, width, 3]
    distance = xyz.norm(dim=-1, keepdim=True)
    points = xyz / distance.clamp(min=1e-8) * torch.expm1(distance)
    return DensePrediction(points, raw[:, 3])


def _double(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2, mode='bilinear', align_corners=True)


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions around a skip connection of the un-activated input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [batch, width, rows, columns] to the same shape."""
        inner = self.conv1(functional.relu(features))
        return features + self.conv2(functional.relu(inner))


class FusionStage(nn.Module):
    """Merge a skip level into the coarser path and double its size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualConvUnit(width)
        self.resConfUnit2 = ResidualConvUnit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(self, coarse: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map one or two [batch, width, rows, columns] to twice the rows and columns."""
        if skip is not None:
            coarse = coarse + self.resConfUnit1(skip)
        # A 1x1 convolution commutes with bilinear interpolation; before it, it costs a quarter.
        return _double(self.out_conv(self.resConfUnit2(coarse)))


class DptNet(nn.Module):
    """Convolutional decoder over four token levels (Ranftl et al., 2021)."""

    def __init__(self, config: Spann3RConfig) -> None:
        super().__init__()
        width, layers = config.dpt_width, config.dpt_layers
        encoder, decoder = config.encoder_width, config.decoder_width
        self.act_postprocess = nn.ModuleList((
            nn.Sequential(nn.Conv2d(encoder, layers[0], 1),
                          nn.ConvTranspose2d(layers[0], layers[0], 4, stride=4)),
            nn.Sequential(nn.Conv2d(decoder, layers[1], 1),
                          nn.ConvTranspose2d(layers[1], layers[1], 2, stride=2)),
            nn.Sequential(nn.Conv2d(decoder, layers[2], 1)),
            nn.Sequential(nn.Conv2d(decoder, layers[3], 1),
                          nn.Conv2d(layers[3], layers[3], 3, stride=2, padding=1)),
        ))
        self.scratch = nn.Module()
        for level, channels in enumerate(layers, start=1):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self.scratch.add_module(f'layer{level}_rn', conv)
            self.scratch.add_module(f'refinenet{level}', FusionStage(width))
        # The official state dict names these four convolutions twice.
        self.scratch.layer_rn = nn.ModuleList(
            self.scratch.get_submodule(f'layer{level}_rn') for level in (1, 2, 3, 4))
        self.head = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True),
            nn.Conv2d(width // 2, width // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, 4, 1),
        )

    def forward(self, levels: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Map four levels of tokens to raw channels [batch, 4, height, width]."""
        rows, columns = grid
        maps = [
            reduce(reassemble(tokens.mT.unflatten(-1, grid)))  # [batch, dpt_width, ., .]
            for tokens, reassemble, reduce in zip(
                levels, self.act_postprocess, self.scratch.layer_rn, strict=True)
        ]
        path = self.scratch.refinenet4(maps[3])[..., :rows, :columns]
        path = self.scratch.refinenet3(path, maps[2])
        path = self.scratch.refinenet2(path, maps[1])
        path = self.scratch.refinenet1(path, maps[0])
        return self.head(path)  # [batch, 4, height, width]


class DptHead(nn.Module):
    """Dense prediction from four decoder levels."""

    def __init__(self, config: Spann3RConfig) -> None:
        super().__init__()
        self.hooks = config.hooks
        self.dpt = DptNet(config)

    def forward(self, tokens: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Map all decoder outputs of one view to raw channels [batch, 4, height, width]."""
        return self.dpt([tokens[hook] for hook in self.hooks], grid)


class LinearHead(nn.Module):
    """Dense prediction by one linear layer per token; cheap, for small networks."""

    def __init__(self, config: Spann3RConfig) -> None:
        super().__init__()
        self.hooks = (config.decoder_depth,)
        self.patch_size = config.patch_size
        self.proj = nn.Linear(config.decoder_width, 4 * config.patch_size ** 2)

    def forward(self, tokens: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Map the last decoder output of one view to raw channels [batch, 4, height, width]."""
        raw = self.proj(tokens[self.hooks[0]])
        return functional.pixel_shuffle(raw.mT.unflatten(-1, grid), self.patch_size)


def build_head(config: Spann3RConfig) -> DptHead | LinearHead:
    """Build the dense head that the config names."""
    return DptHead(config) if config.head == 'dpt' else LinearHead(config)
