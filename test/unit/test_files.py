# SPDX-License-Identifier: Apache-2.0
"""Files are replaced as a whole: all of them, or none."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from spann3r_ros.core import files
from spann3r_ros.core.files import replace_directory, write_files, write_json


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


def test_link_is_replaced_and_not_what_it_points_at(tmp_path: Path) -> None:
    target, link = tmp_path / 'target', tmp_path / 'link'
    target.write_bytes(b'kept')
    link.symlink_to(target)
    write_files({link: b'content'})
    assert not link.is_symlink()
    assert (link.read_bytes(), target.read_bytes()) == (b'content', b'kept')


def test_standard_output_is_written_to(tmp_path: Path) -> None:
    code = ('from pathlib import Path; from spann3r_ros.core.files import write_json; '
            'write_json(Path("/dev/stdout"), [1])')
    with (tmp_path / 'out').open('wb') as out:
        subprocess.run([sys.executable, '-c', code], stdout=out, check=True,
                       cwd=Path(__file__).parents[2])
    assert json.loads((tmp_path / 'out').read_text()) == [1]
    assert Path('/dev/stdout').is_symlink()


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


def test_temporary_file_of_a_killed_process_is_removed_and_of_a_living_one_kept(
        tmp_path: Path) -> None:
    killed = subprocess.Popen(['true'])
    killed.wait()
    leftover, kept, other = (tmp_path / name for name in (
        f'.a[1].pt.{killed.pid}.xyz.part', f'.a[1].pt.{os.getpid()}.xyz.part',
        f'.b.pt.{killed.pid}.xyz.part'))
    for file in (leftover, kept, other):
        file.touch()
    write_files({tmp_path / 'a[1].pt': b'content'})
    assert sorted(tmp_path.iterdir()) == sorted([kept, other, tmp_path / 'a[1].pt'])


@pytest.mark.parametrize('exchanges', [True, False])
def test_a_directory_is_replaced_as_a_whole(
        exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:
        monkeypatch.setattr(files, 'RENAME_EXCHANGE', 1 << 30)  # EINVAL, as on NFS
    directory = tmp_path / 'map'
    for content in (b'first', b'second'):
        replace_directory(directory, {'a': content, 'b': content})
        assert {one.name: one.read_bytes() for one in directory.iterdir()} == {
            'a': content, 'b': content}
    outside = tmp_path / 'outside'
    outside.mkdir()
    (outside / 'mine').touch()
    shutil.rmtree(directory)
    directory.symlink_to(outside)
    replace_directory(directory, {'a': b'third'})
    assert not directory.is_symlink() and [one.name for one in directory.iterdir()] == ['a']
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith('.')] == []
    assert (outside / 'mine').exists()


def test_a_directory_that_cannot_be_replaced_stays(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, 'RENAME_EXCHANGE', 1 << 30)
    directory = tmp_path / 'map'
    replace_directory(directory, {'a': b'first'})
    rename, calls = os.rename, []

    def fail_second(*names: object) -> None:
        calls.append(names)
        if len(calls) == 2:
            raise OSError(5, 'Input/output error')
        rename(*names)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'rename', fail_second)
        with pytest.raises(OSError, match='Input/output'):
            replace_directory(directory, {'a': b'second'})
    assert (directory / 'a').read_bytes() == b'first'
    assert [one.name for one in tmp_path.iterdir()] == ['map']
    # A crash between the two renames is put right by the next one.
    directory.rename(tmp_path / '.map.exchanged')
    replace_directory(directory, {'a': b'third'})
    assert (directory / 'a').read_bytes() == b'third'
    assert [one.name for one in tmp_path.iterdir()] == ['map']
