# SPDX-License-Identifier: Apache-2.0
"""Weights, images and vectors made from integer hashing: the same bits on every platform.

The recordings hold outputs only; their inputs come from here, named by strings and seeds.
"""
from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R

# 64-bit words are held as int64, whose products and sums wrap around.
STEP = 0x9E3779B97F4A7C15 - 2**64
FACTORS = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
# Numbers that are computed at a time: on a CPU they fit its cache.
PIECES = {'cpu': 2**15, 'cuda': 2**24}
OCTAVES = (64, 3), (16, 3), (4, 1), (1, 1)  # lattice spacing in pixels, amount
UNIT_WEIGHT_NORMS = 'enc_norm', 'dec_norm', 'value_norm'


def scramble(state: Tensor) -> Tensor:
    """Return splitmix64's output for int64 states, in place; arithmetic wraps around."""
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        state ^= shifted(state, shift)
        state *= factor
    state ^= shifted(state, 31)
    return state


def shifted(words: Tensor, bits: int) -> Tensor:
    """Return 64-bit words moved right by some bits, with zeros on the left."""
    return (words >> bits) & (2**(64 - bits) - 1)


def samples(name: str, shape: tuple[int, ...], salt: int,
            device: torch.device | str = 'cpu') -> Tensor:
    """Return float64 samples of mean 0 and variance 1, fixed by a name and a salt."""
    seed = (zlib.crc32(name.encode()) << 32) | (salt & 0xFFFFFFFF)
    seed -= 2**64 if seed >= 2**63 else 0
    found = torch.empty(math.prod(shape), dtype=torch.float64, device=device)
    piece = PIECES[found.device.type]
    # The full-size network has 659 million weights.
    for start in range(0, found.numel(), piece):
        part = found[start:start + piece]
        state = torch.arange(start + 1, start + 1 + len(part), device=device)
        state *= STEP
        state += seed
        part.copy_(shifted(scramble(state), 40))
        part.mul_(2.0 ** -24).mul_(2.0).sub_(1.0).mul_(math.sqrt(3.0))
    return found.view(shape)


def uniform(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Return `samples` as numpy."""
    return samples(name, shape, salt).numpy()


def vector(name: str, shape: tuple[int, ...], salt: int,
           device: torch.device | str = 'cpu') -> Tensor:
    """Return `samples` in float32."""
    return samples(name, shape, salt, device).float()


def weight(key: str, shape: tuple[int, ...], salt: int, encoder_width: int,
           device: torch.device | str = 'cpu') -> Tensor:
    """Return the float32 tensor of one state-dict key."""
    for level in range(4):  # tensors with two names share one value
        key = key.replace(f'scratch.layer_rn.{level}.', f'scratch.layer{level + 1}_rn.')
    sample = samples(key, shape, salt, device)
    owner, leaf = f'.{key}'.split('.')[-2:]
    if leaf == 'mask_token':
        value = 0.02 * sample
    elif owner.startswith('norm') or owner in UNIT_WEIGHT_NORMS:
        value = 0.1 * sample if leaf == 'bias' else 1.0 + 0.1 * sample
        if key == 'norm_q.weight':
            value = 2.5 * value
    elif leaf == 'bias':
        value = 0.05 * sample
    elif len(shape) == 4:
        value = _gain(key) * _divided(sample, _fan_in(key, shape))
    else:
        value = _divided(sample, shape[1])
        if key in ('attn_head_1.0.weight', 'attn_head_2.0.weight'):
            value[:, encoder_width:] *= 0.2  # the columns that see the decoder
    return value.float()


def _divided(sample: Tensor, inputs: int) -> Tensor:
    # CUDA multiplies by the reciprocal of a number, but divides by a tensor.
    return sample / torch.tensor(inputs, dtype=torch.float64, device=sample.device).sqrt()


def _gain(key: str) -> float:
    if 'dpt.head.4.' in key:
        return 1.2
    return 1.0 if 'patch_embed' in key else 0.75


def _fan_in(key: str, shape: tuple[int, ...]) -> int:
    transposed = 'act_postprocess.0.1.' in key or 'act_postprocess.1.1.' in key
    return shape[0] if transposed else shape[1] * shape[2] * shape[3]


def build_model(config: Spann3RConfig, salt: int,
                device: torch.device | str = 'cpu') -> Spann3R:
    """Return a network with the recipe's weights, holding them once in memory."""
    with torch.device('meta'):
        model = Spann3R(config)
    state = {key: weight(key, tuple(item.shape), salt, config.encoder_width, device)
             for key, item in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def image(seed: int, height: int, width: int, left: int, top: int) -> np.ndarray:
    """Return a uint8 [height, width, 3] window at (left, top) of an endless noise canvas."""
    x = torch.arange(left, left + width)[None, :, None]
    y = torch.arange(top, top + height)[:, None, None]
    total = torch.zeros(height, width, 3, dtype=torch.int64)
    for octave, (spacing, amount) in enumerate(OCTAVES):
        total += amount * (_interpolate(seed, octave, spacing, x, y) // spacing ** 2)
    return ((total // 8 - 128) * 2 + 128).clamp(0, 255).byte().numpy()


def _interpolate(seed: int, octave: int, spacing: int, x: Tensor, y: Tensor) -> Tensor:
    column, row = x // spacing, y // spacing
    right, down = x % spacing, y % spacing
    left, up = spacing - right, spacing - down
    return (_lattice(seed, octave, column, row) * left * up
            + _lattice(seed, octave, column + 1, row) * right * up
            + _lattice(seed, octave, column, row + 1) * left * down
            + _lattice(seed, octave, column + 1, row + 1) * right * down)


def _lattice(seed: int, octave: int, column: Tensor, row: Tensor) -> Tensor:
    channel = torch.arange(1, 4)[None, None, :]
    hashed = ((column * 73856093) ^ (row * 19349663) ^ (channel * 83492791)
              ^ ((octave + 1) * 2654435761) ^ (seed * 40503 << 20))
    return shifted(scramble(hashed), 56)


def network_input(pixels: np.ndarray) -> Tensor:
    """Return uint8 [height, width, 3] as float32 [1, 3, height, width] in [-1, 1]."""
    scaled = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    return (scaled - 0.5) / 0.5
