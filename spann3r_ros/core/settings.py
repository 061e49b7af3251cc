# SPDX-License-Identifier: Apache-2.0
"""Settings as dataclass fields: default, description, range or choices in one place."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

Value = bool | int | float | str

_TYPES = {'int': int, 'float': (int, float), 'bool': bool, 'str': str}
T = TypeVar('T')
# When a changed value takes effect: while the node runs, at its next configure, or never, because
# it is read once at the start.
RUNNING, CONFIGURE, START = 'running', 'configure', 'start'


def setting(
    default: T, doc: str, low: float | None = None, high: float | None = None,
    choices: tuple[T, ...] = (), applies: str = CONFIGURE,
) -> T:
    """Return a dataclass field that carries its description and its range or choices.

    `applies` is when a changed value takes effect: RUNNING, CONFIGURE or START.
    """
    metadata: dict[str, object] = {'doc': doc, 'applies': applies}
    if low is not None:
        metadata |= {'min': low, 'max': high}
    if choices:
        metadata['choices'] = choices
    return field(default=default, metadata=metadata)


def check_settings(config: object) -> None:
    """Raise ValueError with the name of the first field that has a wrong type or value."""
    for item in fields(config):
        kind, value = _TYPES.get(str(item.type)), getattr(config, item.name)
        name = f'{type(config).__name__}.{item.name}'
        # In Python a bool is an int, but `stride: true` is a mistake.
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


@dataclass(frozen=True)
class Setting:
    """One setting as its dataclass field declares it; dots in `name` separate its groups."""

    name: str
    default: Value
    metadata: Mapping[str, Any]

    @property
    def applies(self) -> str:
        """Return when a changed value takes effect: RUNNING, CONFIGURE or START."""
        return self.metadata.get('applies', CONFIGURE)

    def bounds_text(self) -> str:
        """Return the bounds in brackets, or an empty text if there are none."""
        if 'min' not in self.metadata:
            return ''
        return f' [{self.metadata["min"]}..{self.metadata["max"]}]'


def list_settings(config: object, prefix: str = '') -> Iterator[Setting]:
    """Yield every setting of a dataclass and of the dataclasses in it, in declaration order."""
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from list_settings(value, f'{prefix}{item.name}.')
        else:
            yield Setting(prefix + item.name, value, item.metadata)


def rebuild(config: T, values: Mapping[str, Value], prefix: str = '') -> T:
    """Return a copy of a dataclass with the values given by name.

    Raises ValueError as the checks of the dataclass do.
    """
    changes = {}
    for item in fields(config):
        default, name = getattr(config, item.name), prefix + item.name
        if is_dataclass(default):
            changes[item.name] = rebuild(default, values, f'{name}.')
        elif name in values:
            changes[item.name] = values[name]
    return replace(config, **changes)
