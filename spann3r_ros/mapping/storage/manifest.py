# SPDX-License-Identifier: Apache-2.0
"""The manifest of a saved map, and its files, read only if they are what it describes."""
from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spann3r_ros import __version__

MANIFEST = 'manifest.json'
FORMAT = 2
# A manifest has a few kilobytes. Values without arrays need many times their bytes of memory.
MAX_MANIFEST_BYTES, MAX_TEXT_BYTES = 2**20, 2**26
PIECE_BYTES = 2**20


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of a file."""

    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a map is: the `values` of the manifest, and an entry for each file by its name."""

    directory: Path
    values: Mapping[str, Any]
    files: Mapping[str, FileEntry]

    def check(self, but: Collection[str] = ()) -> None:
        """Raise ValueError unless the directory has these files, unchanged, and no others.

        The contents of the files `but` are not read.
        """
        found = {one.name for one in self.directory.iterdir() if not one.name.startswith('.')}
        others = sorted(found - {MANIFEST, *self.files})
        if others:
            raise ValueError(f'{self.directory}: expected only files that the manifest names, '
                             f'got {others[0]!r}')
        for name in sorted(set(self.files).difference(but)):
            for _ in self._pieces(name):
                pass

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return a file of at most so many bytes; ValueError for another than the one named."""
        if name not in self.files:
            raise ValueError(f'{self.directory / MANIFEST}: expected the file {name}, '
                             f'got {sorted(self.files)}')
        if most is not None and self.files[name].nbytes > most:
            raise ValueError(f'{self.directory / name}: expected {most} bytes at most, '
                             f'got {self.files[name].nbytes}')
        return b''.join(self._pieces(name))

    def _pieces(self, name: str) -> Iterator[bytes]:
        """Yield a file; raise ValueError at its end unless its checksum is that of the entry."""
        path, entry = self.directory / name, self.files[name]
        digest, size = hashlib.sha256(), _size_of(path)
        if size == entry.nbytes:
            with path.open('rb') as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
                    yield piece
        if size != entry.nbytes or digest.hexdigest() != entry.sha256:
            raise ValueError(f'{path}: expected the file that the manifest describes, '
                             f'got {size} bytes of another content')


def encode_manifest(values: Mapping[str, Any], files: Mapping[str, FileEntry]) -> bytes:
    """Return the manifest of a map with these values and files."""
    content = {
        'format': FORMAT, 'version': __version__, **values,
        'files': {name: {'bytes': one.nbytes, 'sha256': one.sha256}
                  for name, one in files.items()}}
    return (json.dumps(content, indent=2) + '\n').encode()


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a directory.

    Raises ValueError for the manifest of something else or of a newer format, and OSError if it
    cannot be read.
    """
    path = directory / MANIFEST
    size = _size_of(path)
    if size > MAX_MANIFEST_BYTES:
        raise ValueError(f'{path}: expected {MAX_MANIFEST_BYTES} bytes at most, got {size}')
    try:
        values = json.loads(path.read_bytes())
        found = values.pop('format')
        if found != FORMAT:
            raise ValueError(f'expected format {FORMAT}, got {found!r:.40} of version '
                             f'{values.get("version")!r:.40}; this is version {__version__}')
        files = {name: _entry(name, entry) for name, entry in values.pop('files').items()}
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, ValueError,
            RecursionError) as error:
        raise ValueError(f'{path}: expected the manifest of a map: '
                         f'{type(error).__name__}: {error}') from error
    return Manifest(directory, values, files)


def _entry(name: str, entry: Mapping[str, Any]) -> FileEntry:
    size, digest = entry['bytes'], entry['sha256']
    if '/' in name or name in ('', '.', '..', MANIFEST):
        raise ValueError(f'expected names of files, got {name!r:.80}')
    if isinstance(size, bool) or not (isinstance(size, int) and size >= 0
                                      and isinstance(digest, str)):
        raise ValueError(f'expected size and checksum of {name}, got {size!r:.40}')
    return FileEntry(size, digest)


def _size_of(path: Path) -> int:
    """Return the size of a file; raise ValueError for a link, a folder, a device or a pipe."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f'{path}: expected a file, no link, folder, device or pipe')
    return found.st_size
