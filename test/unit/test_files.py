# SPDX-License-Identifier: Apache-2.0
"""Files are replaced as a whole: all of them, or none."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from spann3r_ros.core.files import write_files, write_json


def test_bytes_and_writers_replace_files(tmp_path: Path) -> None:
    old, new = tmp_path / 'old', tmp_path / 'new'
    old.write_bytes(b'before')
    write_files({old: b'after', new: lambda file: file.write(b'written')})
    assert (old.read_bytes(), new.read_bytes()) == (b'after', b'written')
    assert sorted(tmp_path.iterdir()) == [new, old]


def test_failure_changes_no_file(tmp_path: Path) -> None:
    first = tmp_path / 'first'
    first.write_bytes(b'before')

    def fail(file: BinaryIO) -> None:
        file.write(b'half')
        raise OSError('no space left')

    with pytest.raises(OSError, match='no space left'):
        write_files({first: b'after', tmp_path / 'second': fail})
    assert first.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [first]


def test_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / 'target', tmp_path / 'link'
    link.symlink_to(target)
    write_files({link: b'content'})
    assert link.is_symlink()
    assert target.read_bytes() == b'content'


def test_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, [1])
        assert json.loads(os.read(reader, 100)) == [1]
    finally:
        os.close(reader)
    assert pipe.is_fifo()
