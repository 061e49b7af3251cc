# SPDX-License-Identifier: Apache-2.0
"""Settings as dataclass fields: default, description, range or choices in one place."""
from __future__ import annotations

import math
from dataclasses import field, fields
from typing import TypeVar

_TYPES = {'int': int, 'float': (int, float), 'bool': bool, 'str': str}
T = TypeVar('T')


def setting(
    default: T, doc: str, low: float | None = None, high: float | None = None,
    choices: tuple[T, ...] = (),
) -> T:
    """Return a dataclass field that carries its description and its range or choices."""
    metadata: dict[str, object] = {'doc': doc}
    if low is not None:
        metadata |= {'min': low, 'max': high}
    if choices:
        metadata['choices'] = choices
    return field(default=default, metadata=metadata)


def check_settings(config: object) -> None:
    """Raise ValueError naming the first field of a dataclass that breaks its type or range."""
    for item in fields(config):
        kind, value = _TYPES.get(str(item.type)), getattr(config, item.name)
        name = f'{type(config).__name__}.{item.name}'
        # bool is an int to Python, but `stride: true` is a mistake
        if kind and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            raise ValueError(f'{name}: expected {item.type}, got {value!r}')
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'{name}: expected a finite number, got {value!r}')
        low, high = item.metadata.get('min'), item.metadata.get('max')
        if low is not None and not low <= value <= high:
            raise ValueError(f'{name}: expected a value in [{low}, {high}], got {value!r}')
        choices = item.metadata.get('choices')
        if choices and value not in choices:
            raise ValueError(f'{name}: expected one of {choices}, got {value!r}')
