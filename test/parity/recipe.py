# SPDX-License-Identifier: Apache-2.0
"""Weights, images and vectors made from integer hashing: the same bits on every platform.

The recordings hold outputs only; their inputs come from here, named by strings and seeds.
"""
from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R

STEP = np.uint64(0x9E3779B97F4A7C15)
FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
PIECE = 1 << 15
OCTAVES = (64, 3), (16, 3), (4, 1), (1, 1)  # lattice spacing in pixels, amount
UNIT_WEIGHT_NORMS = 'enc_norm', 'dec_norm', 'value_norm'


def scramble(state: np.ndarray) -> np.ndarray:
    """Return splitmix64's output for uint64 states, in place; arithmetic wraps around."""
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        state ^= state >> np.uint64(shift)
        state *= factor
    state ^= state >> np.uint64(31)
    return state


def uniform(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Return float64 samples of mean 0 and variance 1, fixed by a name and a salt."""
    seed = np.uint64((zlib.crc32(name.encode()) << 32) | (salt & 0xFFFFFFFF))
    samples = np.empty(int(np.prod(shape)))
    # In pieces that fit the cache; the full-size network has 659 million weights.
    for start in range(0, samples.size, PIECE):
        part = samples[start:start + PIECE]
        state = np.arange(start + 1, start + 1 + part.size, dtype=np.uint64)
        state *= STEP
        state += seed
        np.multiply(scramble(state) >> np.uint64(40), 2.0 ** -24, out=part)
        part *= 2.0
        part -= 1.0
        part *= np.sqrt(3.0)
    return samples.reshape(shape)


def vector(name: str, shape: tuple[int, ...], salt: int) -> Tensor:
    """Return `uniform` as a float32 tensor."""
    return torch.from_numpy(uniform(name, shape, salt).astype(np.float32))


def weight(key: str, shape: tuple[int, ...], salt: int, encoder_width: int) -> Tensor:
    """Return the float32 tensor of one state-dict key."""
    for level in range(4):  # tensors with two names share one value
        key = key.replace(f'scratch.layer_rn.{level}.', f'scratch.layer{level + 1}_rn.')
    sample = uniform(key, shape, salt)
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
        value = _gain(key) * (sample / np.sqrt(_fan_in(key, shape)))
    else:
        value = sample / np.sqrt(shape[1])
        if key in ('attn_head_1.0.weight', 'attn_head_2.0.weight'):
            value[:, encoder_width:] *= 0.2  # the columns that see the decoder
    return torch.from_numpy(value.astype(np.float32))


def _gain(key: str) -> float:
    if 'dpt.head.4.' in key:
        return 1.2
    return 1.0 if 'patch_embed' in key else 0.75


def _fan_in(key: str, shape: tuple[int, ...]) -> int:
    transposed = 'act_postprocess.0.1.' in key or 'act_postprocess.1.1.' in key
    return shape[0] if transposed else shape[1] * shape[2] * shape[3]


def build_model(config: Spann3RConfig, salt: int) -> Spann3R:
    """Return a network with the recipe's weights, holding them once in memory."""
    with torch.device('meta'):
        model = Spann3R(config)
    state = {key: weight(key, tuple(item.shape), salt, config.encoder_width)
             for key, item in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def image(seed: int, height: int, width: int, left: int, top: int) -> np.ndarray:
    """Return a uint8 [height, width, 3] window at (left, top) of an endless noise canvas."""
    x = np.arange(left, left + width, dtype=np.int64)[None, :, None]
    y = np.arange(top, top + height, dtype=np.int64)[:, None, None]
    total = np.zeros((height, width, 3), np.int64)
    for octave, (spacing, amount) in enumerate(OCTAVES):
        total += amount * (_interpolate(seed, octave, spacing, x, y) // spacing ** 2)
    return np.clip((total // 8 - 128) * 2 + 128, 0, 255).astype(np.uint8)


def _interpolate(seed: int, octave: int, spacing: int, x: np.ndarray,
                 y: np.ndarray) -> np.ndarray:
    column, row = x // spacing, y // spacing
    right, down = x % spacing, y % spacing
    left, up = spacing - right, spacing - down
    return (_lattice(seed, octave, column, row) * left * up
            + _lattice(seed, octave, column + 1, row) * right * up
            + _lattice(seed, octave, column, row + 1) * left * down
            + _lattice(seed, octave, column + 1, row + 1) * right * down)


def _lattice(seed: int, octave: int, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    channel = np.arange(1, 4, dtype=np.int64)[None, None, :]
    hashed = ((column * 73856093) ^ (row * 19349663) ^ (channel * 83492791)
              ^ ((octave + 1) * 2654435761) ^ (seed * 40503 << 20))
    return (scramble(hashed.astype(np.uint64)) >> np.uint64(56)).astype(np.int64)


def network_input(pixels: np.ndarray) -> Tensor:
    """Return uint8 [height, width, 3] as float32 [1, 3, height, width] in [-1, 1]."""
    scaled = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    return (scaled - 0.5) / 0.5
