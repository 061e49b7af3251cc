# SPDX-License-Identifier: Apache-2.0
"""Trees of plain values and arrays: JSON and safetensors on disk, checked when they are read."""
from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from .array_file import ArrayFile

# A dictionary of an array's name in the second file stands for the array.
ARRAY = '$array'
MAX_FLOAT = sys.float_info.max
Dimensions = Sequence[int | None]


class LateTree(Mapping[str, Any]):
    """A part of a tree that is computed when it is first read, on the thread that reads it.

    `make` uses nothing that changes meanwhile.
    """

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        """Return an entry."""
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the entries."""
        return iter(self.values_by_name)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.values_by_name)

    @cached_property
    def values_by_name(self) -> dict[str, Any]:
        """Return the entries, which may be changed."""
        return self._make()


def tree_files(tree: Mapping[str, Any]) -> tuple[bytes, ArrayFile]:
    """Return a tree of values, lists, dictionaries and arrays as JSON and as safetensors."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_without_arrays(tree, '', arrays), indent=1)
    return text.encode() + b'\n', ArrayFile(arrays)


def encode_tree(tree: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return both files of a tree as bytes."""
    content, arrays = tree_files(tree)
    return content, arrays.content()


def decode_tree(content: bytes, arrays: bytes) -> SavedNode:
    """Return the root of an encoded tree; raise ValueError for other content."""
    try:
        return SavedNode(json.loads(content), load(arrays), '')
    # A type that numpy does not have is a KeyError, too deep a tree a RecursionError.
    except (ValueError, RecursionError, KeyError, SafetensorError) as error:
        raise ValueError(f'{type(error).__name__}: {error}') from error


class SavedNode:
    """A dictionary of a saved tree; each method returns a checked entry by its name.

    All raise ValueError with the path of an entry that is missing, of another type, or out of
    range.
    """

    def __init__(self, values: Any, arrays: Mapping[str, np.ndarray], path: str) -> None:  # noqa: ANN401
        if not isinstance(values, dict):
            raise ValueError(f'{path or "the saved map"}: expected a dictionary, '
                             f'got {type(values).__name__}')
        self._values = values
        self._arrays = arrays
        self._path = path

    def has(self, name: str) -> bool:
        """Return whether there is an entry that is not None."""
        return self._values.get(name) is not None

    def node(self, name: str) -> SavedNode:
        """Return a dictionary."""
        return SavedNode(self._entry(name), self._arrays, self._at(name))

    def nodes(self, name: str) -> list[SavedNode]:
        """Return a list of dictionaries."""
        entry = self._entry(name)
        if not isinstance(entry, list):
            raise ValueError(f'{self._at(name)}: expected a list, got {type(entry).__name__}')
        return [SavedNode(item, self._arrays, f'{self._at(name)}[{index}]')
                for index, item in enumerate(entry)]

    def items(self) -> Iterator[str]:
        """Yield the names of the entries."""
        return iter(self._values)

    def integer(self, name: str, low: int = 0, high: int = 2**63 - 1) -> int:
        """Return an integer from `low` to `high`."""
        value = self._entry(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f'{self._at(name)}: expected an integer from {low} to {high}, '
                             f'got {value!r}')
        return value

    def number(self, name: str, low: float = -math.inf, high: float = math.inf,
               finite: bool = True) -> float:
        """Return a number from `low` to `high`, no NaN; if `finite`, no infinity either."""
        value = self._entry(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (
                low <= value <= high) or (
                (finite or isinstance(value, int)) and abs(value) > MAX_FLOAT):
            raise ValueError(f'{self._at(name)}: expected a number from {low} to {high}, '
                             f'got {value!r}')
        return float(value)

    def flag(self, name: str) -> bool:
        """Return a bool."""
        return self._typed(name, bool)

    def text(self, name: str, choices: Sequence[str] | None = None) -> str:
        """Return a text, one of `choices` if they are given."""
        value = self._typed(name, str)
        if choices is not None and value not in choices:
            raise ValueError(f'{self._at(name)}: expected one of {tuple(choices)}, got {value!r}')
        return value

    def array(self, name: str, dtype: type | str, shape: Dimensions,
              finite: bool = True) -> np.ndarray:
        """Return an array of a type and a shape, where None is any length.

        If `finite`, its values must be finite.
        """
        array = self._array(name)
        fits = array.ndim == len(shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True))
        if array.dtype != np.dtype(dtype) or not fits:
            raise ValueError(f'{self._at(name)}: expected {np.dtype(dtype).name} {list(shape)}, '
                             f'got {array.dtype} {list(array.shape)}')
        if finite and array.dtype.kind == 'f' and not np.isfinite(array).all():
            raise ValueError(f'{self._at(name)}: expected finite values')
        return array

    def dtype(self, name: str, choices: Sequence[type]) -> np.dtype:
        """Return the type of an array, one of `choices`."""
        array = self._array(name)
        if array.dtype not in choices:
            raise ValueError(f'{self._at(name)}: expected an array of one of the types '
                             f'{[np.dtype(one).name for one in choices]}')
        return array.dtype

    def arrays(self) -> dict[str, np.ndarray]:
        """Return a dictionary of arrays of any types and shapes, which the caller checks."""
        return {name: self._array(name) for name in self._values}

    def fault(self, name: str, expected: str, got: object) -> ValueError:
        """Return an error about an entry."""
        return ValueError(f'{self._at(name)}: expected {expected}, got {got}')

    def _array(self, name: str) -> np.ndarray:
        entry = self._entry(name)
        key = entry.get(ARRAY) if isinstance(entry, dict) else None
        if not isinstance(key, str) or key not in self._arrays:
            raise ValueError(f'{self._at(name)}: expected an array')
        return self._arrays[key]

    def _typed(self, name: str, kind: type) -> Any:  # noqa: ANN401
        value = self._entry(name)
        if not isinstance(value, kind):
            raise ValueError(f'{self._at(name)}: expected {kind.__name__}, got {value!r}')
        return value

    def _entry(self, name: str) -> Any:  # noqa: ANN401
        if name not in self._values:
            raise ValueError(f'{self._at(name)}: missing')
        return self._values[name]

    def _at(self, name: str) -> str:
        return f'{self._path}.{name}' if self._path else name


def vars_of(value: object) -> dict[str, Any]:
    """Return the fields of a dataclass by name; cached properties are left out."""
    return {item.name: getattr(value, item.name) for item in fields(value)}


def _without_arrays(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:  # noqa: ANN401
    """Return a tree for JSON, and put its arrays into `arrays` by their paths."""
    if isinstance(value, np.ndarray):
        arrays[path] = np.asarray(value, order='C')  # one without dimensions stays one
        return {ARRAY: path}
    if isinstance(value, Mapping):
        return {str(name): _without_arrays(item, f'{path}.{name}' if path else str(name), arrays)
                for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, f'{path}[{index}]', arrays)
                for index, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value
