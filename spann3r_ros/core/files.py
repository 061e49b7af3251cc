# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files: no file is ever left half written."""
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

Content = bytes | Callable[[BinaryIO], object]


def write_json(path: Path, value: object) -> None:
    """Replace a file by a value in JSON, as `write_files` does."""
    write_files({path: (json.dumps(value, indent=2) + '\n').encode()})


def write_files(contents: Mapping[Path, Content]) -> None:
    """Replace files; each file has its old or its new content at any time, never a part.

    A content is bytes, or a function that writes them to the open file it is given. All new
    contents are written to temporary files before the first file is replaced. If that fails, for
    example on a full disk, OSError is raised and no file has changed. A link is followed; a path
    that is a device or a pipe is written to.
    """
    temporary: dict[Path, str] = {}
    contents = {Path(path).resolve(): content for path, content in contents.items()}
    try:
        for path, content in contents.items():
            if path.exists() and not path.is_file():
                with path.open('wb') as file:
                    write_content(file, content)
                continue
            descriptor, temporary[path] = tempfile.mkstemp(
                dir=path.parent, prefix=f'.{path.name}.')
            with os.fdopen(descriptor, 'wb') as file:
                write_content(file, content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
        for path, name in temporary.items():
            os.replace(name, path)
    finally:
        for name in temporary.values():
            with suppress(FileNotFoundError):
                os.unlink(name)
    for parent in {path.parent for path in temporary}:
        folder = os.open(parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_content(file: BinaryIO, content: Content) -> None:
    """Write bytes to an open file, or let a function write them."""
    if isinstance(content, bytes):
        file.write(content)
    else:
        content(file)
