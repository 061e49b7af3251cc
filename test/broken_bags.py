# SPDX-License-Identifier: Apache-2.0
"""Bags as recorders leave them when they are killed, and as tools and disks damage them."""
from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zstandard
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer
from recorded_bags import CAMERA, OrbitBag, stamp_of

CHUNK_BYTES = 100_000  # three raw images of a bag


class PlainBag(OrbitBag):
    """Its images are noise, which takes less time than to draw a scene."""

    def picture(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(
            0, 256, (CAMERA.height, CAMERA.width, 3), np.uint8)


def plain_bag(path: Path, count: int = 12, storage: str = 'mcap', first: int = 0) -> Path:
    """Write raw images alone."""
    with PlainBag(path, storage) as bag:
        for index in range(first, first + count):
            bag.raw(index)
    return path


def storage_file(bag: Path) -> Path:
    return next(file for file in bag.iterdir() if file.name != 'metadata.yaml')


def rewrite(file: Path, order: Callable[[int], int] = lambda time_ns: time_ns,
            data: Callable[[bytes], bytes] = lambda data: data, **options: Any,  # noqa: ANN401
            ) -> None:
    """Write the messages of an mcap file again, as other recorders do; `order` sorts them."""
    with file.open('rb') as source:
        messages = sorted(make_reader(source).iter_messages(),
                          key=lambda one: order(one[2].log_time))
    options.setdefault('chunk_size', CHUNK_BYTES)
    options.setdefault('compression', CompressionType.ZSTD)
    with file.open('wb') as target:
        writer = Writer(target, **options)
        writer.start('ros2')
        ids = {}
        for schema, channel, message in messages:
            if channel.topic not in ids:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                ids[channel.topic] = writer.register_channel(channel.topic, 'cdr', number)
            writer.add_message(ids[channel.topic], message.log_time, data(message.data),
                               message.publish_time)
        writer.finish()


def cut(file: Path, share: float) -> None:
    """Keep the first part of a file."""
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * share)])


def damage(file: Path, share: float, count: int = 64) -> None:
    """Overwrite bytes at a place of a file."""
    data = bytearray(file.read_bytes())
    place = int(len(data) * share)
    data[place:place + count] = b'\xa5' * count
    file.write_bytes(data)


def edit_metadata(bag: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = bag / 'metadata.yaml'
    metadata = yaml.safe_load(file.read_text())
    change(metadata['rosbag2_bagfile_information'])
    file.write_text(yaml.safe_dump(metadata))


def compress_file(bag: Path) -> None:
    """Compress the storage file as `ros2 bag record --compression-mode file` does."""
    file = storage_file(bag)
    target = file.with_name(file.name + '.zstd')
    target.write_bytes(zstandard.compress(file.read_bytes()))
    file.unlink()
    edit_metadata(bag, lambda data: data.update(
        relative_file_paths=[target.name], compression_mode='FILE', compression_format='zstd'))


def compress_messages(bag: Path) -> None:
    """Compress every message as `ros2 bag record --compression-mode message` does."""
    file = storage_file(bag)
    if file.suffix == '.mcap':
        rewrite(file, data=zstandard.compress)
    else:
        with closing(sqlite3.connect(file)) as database:
            rows = database.execute('SELECT id, data FROM messages').fetchall()
            database.executemany('UPDATE messages SET data = ? WHERE id = ?', [
                (zstandard.compress(data), number) for number, data in rows])
            database.commit()
    edit_metadata(bag, lambda data: data.update(
        compression_mode='MESSAGE', compression_format='zstd'))


def split_bag(path: Path, sizes: tuple[int, ...]) -> Path:
    """Write a bag of several files, each with the next images."""
    first, names = 0, []
    for number, size in enumerate(sizes):
        part = plain_bag(path.with_name(f'{path.name}_{number}_part'), size, first=first)
        if not number:
            path.mkdir()
            shutil.copy(part / 'metadata.yaml', path / 'metadata.yaml')
        names.append(f'{path.name}_{number}.mcap')
        shutil.move(storage_file(part), path / names[-1])
        shutil.rmtree(part)
        first += size
    edit_metadata(path, lambda data: data.update(relative_file_paths=names))
    return path


def leave_log(file: Path, keep: int) -> sqlite3.Connection:
    """Move the rows after `keep` into a log beside a sqlite3 file, as a recorder leaves them.

    The connection is that of the recorder, which still writes.
    """
    recorder = sqlite3.connect(file)
    recorder.execute('PRAGMA journal_mode=WAL')
    recorder.execute('PRAGMA wal_autocheckpoint=0')
    rows = recorder.execute('SELECT topic_id, data FROM messages WHERE id > ?', [keep]).fetchall()
    recorder.execute('DELETE FROM messages WHERE id > ?', [keep])
    recorder.commit()
    recorder.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    recorder.executemany('INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)', [
        (topic, stamp_of(keep + number), data) for number, (topic, data) in enumerate(rows)])
    recorder.commit()
    return recorder


NO_INDEX = {'index_types': IndexType.NONE, 'repeat_channels': False, 'repeat_schemas': False,
            'use_statistics': False, 'use_summary_offsets': False}
