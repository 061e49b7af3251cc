# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files: no file is ever left half written."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Replace files; each file has its old or its new content at any time, never a part.

    All new contents are written to temporary files before the first file is replaced. If that
    fails, for example on a full disk, OSError is raised and no file has changed.
    """
    temporary: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            descriptor, temporary[path] = tempfile.mkstemp(
                dir=path.parent, prefix=f'.{path.name}.')
            with os.fdopen(descriptor, 'wb') as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
        for path, name in temporary.items():
            os.replace(name, path)
    finally:
        for name in temporary.values():
            with suppress(FileNotFoundError):
                os.unlink(name)
    for parent in {path.parent for path in contents}:
        folder = os.open(parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
