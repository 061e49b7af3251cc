# SPDX-License-Identifier: Apache-2.0
"""The storage files of a rosbag2 recording: which there are, in which order, of which kind."""
from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Any

import yaml
import zstandard

METADATA = 'metadata.yaml'
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
MCAP_MAGIC = b'\x89MCAP0\r\n'
KINDS = {MCAP_MAGIC: 'mcap', b'SQLite format 3\x00': 'sqlite3', ZSTD_MAGIC: 'zstd'}
SUFFIXES = ('.mcap', '.db3', '.mcap.zstd', '.db3.zstd')
ROS_1 = b'#ROSBAG V'


class BagError(ValueError):
    """A bag cannot be read, or lacks a topic; the message gives the reason."""


def find_files(path: Path) -> tuple[list[Path], list[str]]:
    """Return a bag's storage files in recorded order, and what is wrong with its metadata.

    A file is a bag of its own. Of the metadata only the names of the files are used: storage,
    counts and times are read from the files. BagError if there is no storage file.
    """
    if not path.exists():
        raise BagError(f'bag: cannot read {path}: it does not exist')
    if not path.is_dir():
        return [path], []
    there = sorted((file for file in path.iterdir() if file.name.endswith(SUFFIXES)),
                   key=_by_numbers)
    if not there:
        raise BagError(f'bag: cannot read {path}: expected a rosbag2 folder, found no file '
                       f'*.mcap or *.db3 in it')
    try:
        named = _named_files(yaml.safe_load((path / METADATA).read_text('utf-8')))
    # A damaged text raises many types of exception.
    except Exception as error:
        reason = 'is missing' if isinstance(error, FileNotFoundError) else 'cannot be used'
        return there, [f'{METADATA} {reason}: storage files that are read without it: '
                       f'{len(there)}']
    missing = [name for name in named if not (path / name).exists()]
    found = [path / name for name in named if name not in missing]
    if not found:
        return there, [f'{METADATA} names no file that is there: storage files that are read '
                       f'without it: {len(there)}']
    return found, [f'{name} is missing: the recording has a gap' for name in missing]


def kind_of(path: Path) -> str:
    """Return mcap, sqlite3 or zstd, by the first bytes of a file; BagError for another."""
    try:
        with path.open('rb') as file:
            start = file.read(16)
    except OSError as error:
        raise BagError(f'{path.name}: {error.strerror}') from error
    for magic, kind in KINDS.items():
        if start.startswith(magic):
            return kind
    if not start:
        raise BagError(f'{path.name}: the file is empty')
    if start.startswith(ROS_1):
        raise BagError(f'{path.name}: expected a ROS 2 bag, got one of ROS 1; convert it with '
                       f'`rosbags-convert --src {path} --dst FOLDER`')
    raise BagError(f'{path.name}: expected an mcap or sqlite3 file, got neither')


def unpack(path: Path, folder: Path) -> Path:
    """Return a file of `folder` with the contents of a compressed one, as far as it goes."""
    target = folder / path.name.removesuffix('.zstd')
    try:
        with path.open('rb') as file, target.open('wb') as out, (
                zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        ) as whole:
            while piece := whole.read(1 << 20):
                out.write(piece)
    except zstandard.ZstdError:
        pass  # The reader of the unpacked file sees that its end is missing.
    except OSError as error:
        raise BagError(f'{path.name}: cannot unpack it: {error.strerror}') from error
    return target


def _named_files(metadata: Any) -> list[str]:  # noqa: ANN401
    """Return the names of the files in metadata; old versions have folders before them."""
    return [PurePath(name).name
            for name in metadata['rosbag2_bagfile_information']['relative_file_paths']]


def _by_numbers(path: Path) -> list[tuple[str, int]]:
    """Return a key by which bag_2 comes before bag_10."""
    return [(text, int(number or 0)) for text, number in re.findall(r'(\D*)(\d*)', path.name)]
