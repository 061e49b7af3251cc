# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Replace files: a reader or a power cut meets each old content or the new, never a part.

    None is replaced before all are written: a full disk leaves all as they were, with OSError.
    """
    aside: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            descriptor, aside[path] = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
            with os.fdopen(descriptor, 'wb') as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
        for path, name in aside.items():
            os.replace(name, path)
    finally:
        for name in aside.values():
            with suppress(FileNotFoundError):
                os.unlink(name)
    for parent in {path.parent for path in contents}:
        folder = os.open(parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
