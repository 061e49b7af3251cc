# SPDX-License-Identifier: Apache-2.0
"""Arrays as a safetensors file that is written piece by piece.

The library's `save` copies all arrays, and lets no other thread run meanwhile. Here the arrays are
hashed and written where they are. The file begins with the length of its header, a 64-bit integer;
the header is JSON with type, shape and place of each array; the arrays follow without gaps.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import BinaryIO

import numpy as np

TYPES = {'bool': 'BOOL', 'uint8': 'U8', 'int8': 'I8', 'uint16': 'U16', 'int16': 'I16',
         'uint32': 'U32', 'int32': 'I32', 'uint64': 'U64', 'int64': 'I64', 'float16': 'F16',
         'float32': 'F32', 'float64': 'F64'}
ALIGNMENT = 8
# Hashing and writing let other threads run between two pieces of this size.
PIECE_BYTES = 2**20


class ArrayFile:
    """The file of contiguous arrays by their names; they must not change while it is used."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        # The largest items first, so that each array is aligned.
        self._arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))

    @property
    def nbytes(self) -> int:
        """Return the size of the file."""
        return len(self._header) + sum(array.nbytes for array in self._arrays.values())

    def sha256(self) -> str:
        """Return the SHA-256 of the file."""
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
        return digest.hexdigest()

    def write(self, file: BinaryIO) -> None:
        """Write the file."""
        for piece in self._pieces():
            file.write(piece)

    def content(self) -> bytes:
        """Return the file as bytes."""
        return b''.join(self._pieces())

    @cached_property
    def _header(self) -> bytes:
        entries, end = {}, 0
        for name, array in self._arrays.items():
            begin, end = end, end + array.nbytes
            entries[name] = {'dtype': TYPES[array.dtype.name], 'shape': list(array.shape),
                             'data_offsets': [begin, end]}
        text = json.dumps(entries, separators=(',', ':')).encode()
        text += b' ' * (-len(text) % ALIGNMENT)
        return len(text).to_bytes(8, 'little') + text

    def _pieces(self) -> Iterator[bytes | memoryview]:
        yield self._header
        for array in self._arrays.values():
            flat = memoryview(array.reshape(-1).view(np.uint8))
            for begin in range(0, len(flat), PIECE_BYTES):
                yield flat[begin:begin + PIECE_BYTES]
