# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files: no file is ever left half written."""
from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

SUFFIX = '.part'
# Arguments of renameat2: the working directory, and the flag that exchanges two names.
AT_FDCWD, RENAME_EXCHANGE = -100, 2
# End of the name of a directory between two steps of an exchange.
BETWEEN = '.exchanged'
Content = bytes | Callable[[BinaryIO], object]


def write_json(path: Path, value: object) -> None:
    """Replace a file by a value in JSON, as `write_files` does."""
    write_files({path: (json.dumps(value, indent=2) + '\n').encode()})


def write_files(contents: Mapping[Path, Content]) -> None:
    """Replace files; each file has its old or its new content at any time, never a part.

    A content is bytes, or a function that writes them to the open file it is given. All new
    contents are written to temporary files before the first file is replaced. If that fails, for
    example on a full disk, OSError is raised and no file has changed. A link is replaced, not the
    file it points at. A path that is a device or a pipe is written to.
    """
    temporary: dict[Path, str] = {}
    contents = {Path(path).absolute(): content for path, content in contents.items()}
    try:
        for path, content in contents.items():
            # /dev/stdout is a link, also to a file.
            if path.is_relative_to('/dev') or (path.exists() and not path.is_file()):
                with path.open('wb') as file:
                    _write(file, content)
                continue
            _remove_leftovers(path)
            descriptor, temporary[path] = tempfile.mkstemp(
                dir=path.parent, prefix=f'.{path.name}.{os.getpid()}.', suffix=SUFFIX)
            with os.fdopen(descriptor, 'wb') as file:
                _write(file, content)
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
        _sync_folder(parent)


def replace_directory(directory: Path, contents: Mapping[str, Content]) -> None:
    """Replace a directory by one with other files; it has its old or its new files at any time.

    All files are written to a directory beside it, which then takes its place in one step. If
    writing fails, OSError is raised and nothing has changed. A link is replaced, not the directory
    it points at.
    """
    directory = Path(directory).absolute()
    _put_back(directory)
    _remove_leftovers(directory)
    made = Path(tempfile.mkdtemp(dir=directory.parent,
                                 prefix=f'.{directory.name}.{os.getpid()}.', suffix=SUFFIX))
    try:
        made.chmod(0o755)
        write_files({made / name: content for name, content in contents.items()})
        if directory.is_dir() or directory.is_symlink():
            _exchange(made, directory)  # `made` is the old directory or link now
        else:
            os.replace(made, directory)
    finally:
        if made.is_symlink():
            made.unlink()
        else:
            shutil.rmtree(made, ignore_errors=True)
    _sync_folder(directory.parent)


def _exchange(first: Path, second: Path) -> None:
    """Exchange two directories in one step; in three on file systems that cannot, such as NFS."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second),
                            RENAME_EXCHANGE)
    error = ctypes.get_errno() if result else 0
    if error in (errno.EINVAL, errno.ENOSYS):
        between = second.with_name(f'.{second.name}{BETWEEN}')
        os.rename(second, between)
        try:
            os.rename(first, second)
        except OSError:
            os.rename(between, second)
            raise
        os.rename(between, first)
    elif error:
        raise OSError(error, os.strerror(error), str(second))


def _put_back(directory: Path) -> None:
    """Finish an exchange in three steps that was interrupted while the name was free."""
    between = directory.with_name(f'.{directory.name}{BETWEEN}')
    if between.is_dir() or between.is_symlink():
        if not directory.exists():
            os.rename(between, directory)
        elif between.is_symlink():
            between.unlink()
        else:
            shutil.rmtree(between)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(file: BinaryIO, content: Content) -> None:
    if isinstance(content, bytes):
        file.write(content)
    else:
        content(file)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of a path whose processes were killed."""
    for file in path.parent.glob(f'.{escape(path.name)}.*{SUFFIX}'):
        process = file.name.split('.')[-3]
        if not process.isdigit() or _is_alive(int(process)):
            continue
        if file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # alive, of another user
    return True
