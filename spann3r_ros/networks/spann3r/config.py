# SPDX-License-Identifier: Apache-2.0
"""Sizes of the network and capacities of its memory."""
from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from spann3r_ros.core.settings import check_settings, setting

HEADS = ('dpt', 'linear')
# The metadata key of a `.safetensors` file under which a Spann3RConfig is stored as JSON.
CONFIG_KEY = 'spann3r_config'
# The published capacity of 4000 tokens is for images of 224x224 in patches of 16.
REFERENCE_TOKENS_PER_FRAME = 196


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f'{name}: expected {expected}, got {got!r}')


@dataclass(frozen=True)
class Spann3RConfig:
    """Sizes of the network; the defaults are those of the official checkpoint (v1.01).

    `image_height` and `image_width` are the input size the weights were trained for, `other_sizes`
    (height, width) further ones; a network without `learned_positions` takes any landscape size
    that is a multiple of `patch_size`.
    """

    image_height: int = 224
    image_width: int = 224
    patch_size: int = 16
    encoder_width: int = 1024
    encoder_depth: int = 24
    encoder_heads: int = 16
    decoder_width: int = 768
    decoder_depth: int = 12
    decoder_heads: int = 12
    value_depth: int = 6
    value_heads: int = 16
    mlp_ratio: int = 4
    rope_base: float = 100.0
    head: str = 'dpt'
    dpt_width: int = 256
    dpt_layers: tuple[int, int, int, int] = (96, 192, 384, 768)
    learned_positions: bool = False
    other_sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == 'int':
                _require(isinstance(value, int) and value > 0, item.name, 'a positive integer',
                         value)
        _require(self.head in HEADS, 'head', f'one of {HEADS}', self.head)
        _require(self.head == 'linear' or self.patch_size == 16, 'patch_size',
                 '16 with the dpt head', self.patch_size)
        object.__setattr__(self, 'dpt_layers', tuple(self.dpt_layers))
        _require(len(self.dpt_layers) == 4 and all(
            isinstance(item, int) and item > 0 for item in self.dpt_layers), 'dpt_layers',
            'four positive integers', self.dpt_layers)
        _require(self.rope_base > 1.0, 'rope_base', 'a number above 1', self.rope_base)
        for name in ('encoder', 'decoder', 'value'):
            width = getattr(self, 'encoder_width' if name == 'value' else f'{name}_width')
            heads = getattr(self, f'{name}_heads')
            _require(width % (4 * heads) == 0, f'{name}_heads',
                     f'a divisor of {width} that leaves head sizes divisible by 4', heads)
        _require(isinstance(self.other_sizes, (list, tuple)) and all(
            isinstance(item, (list, tuple)) and len(item) == 2 for item in self.other_sizes),
            'other_sizes', 'pairs of height and width', self.other_sizes)
        object.__setattr__(self, 'other_sizes', tuple(tuple(item) for item in self.other_sizes))
        _require(len(set(self.sizes)) == len(self.sizes), 'other_sizes', 'each size once',
                 self.sizes)
        _require(not (self.other_sizes and self.learned_positions), 'other_sizes',
                 'none with learned positions', self.other_sizes)
        for size in self.sizes:
            self.grid(*size)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return (height, width) of all images the weights were trained for."""
        return (self.image_height, self.image_width), *self.other_sizes

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the token grid (rows, columns) of an image, or raise ValueError."""
        size = self.patch_size
        _require(height % size == 0 and width % size == 0 and 0 < height <= width, 'image size',
                 f'multiples of {size} with height <= width', (height, width))
        return height // size, width // size

    @property
    def hooks(self) -> tuple[int, int, int, int]:
        """Return the indices of the decoder outputs that the dense head reads; 0 is its input."""
        depth = self.decoder_depth
        return 0, depth * 2 // 4, depth * 3 // 4, depth

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spann3RConfig:
        """Build from plain values; an unknown name raises ValueError."""
        unknown = sorted(set(values) - {item.name for item in fields(cls)})
        _require(not unknown, 'network config', 'known fields only', unknown)
        return cls(**values)


@dataclass(frozen=True)
class MemoryConfig:
    """Capacities and thresholds of the spatial memory (paper, section 3.3)."""

    working_frames: int = setting(
        5, 'Most recent keyframes that stay in memory with all their tokens', 1, 100)
    long_term_tokens: int = setting(
        4000, 'Older tokens kept before the least attended are pruned; 0: working memory only', 0,
        1_000_000)
    similarity_threshold: float = setting(
        0.95, 'A keyframe more similar than this to a working frame is not stored; 1 stores all',
        -1.0, 1.0)
    attention_threshold: float = setting(
        5e-4, 'Attention weights below this are cut from a memory read', 0.0, 0.5)

    def __post_init__(self) -> None:
        check_settings(self)

    def capacity(self, tokens_per_frame: int) -> int:
        """Return the largest number of tokens, which is reached just before a prune."""
        return self.long_term_tokens + (self.working_frames + 1) * tokens_per_frame


def scale_memory_budget(config: MemoryConfig, tokens_per_frame: int) -> MemoryConfig:
    """Return the config with a long-term budget that holds as many frames as at 196 tokens each.

    Raises ValueError unless `tokens_per_frame` is positive.
    """
    if tokens_per_frame <= 0:
        raise ValueError(f'tokens_per_frame: expected a positive number, got {tokens_per_frame}')
    tokens = round(config.long_term_tokens * tokens_per_frame / REFERENCE_TOKENS_PER_FRAME)
    return replace(config, long_term_tokens=tokens)
