# SPDX-License-Identifier: Apache-2.0
"""Reading storage files from start to end without their index, as far as they are whole."""
from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from heapq import heappop, heappush
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, Footer, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.summary import Summary

from .bag_files import MCAP_MAGIC, BagError

TopicKey = tuple[str, str]  # topic and type
Stored = tuple[TopicKey, int, bytes]  # with the time of recording in ns and the serialised message
CDR = 'cdr'
FOOTER_BYTES = 37  # with the magic bytes behind it
CRC_BYTES = 4
# Recorders write messages in the order of their arrival; few are out of order, and by little.
ORDER_SPAN_NS = 10**9
# A row that cannot be read may have many unreadable ones behind it.
WIDEST_STEP = 2**40
LOCK_SEC = 1.0


class Stream(Protocol):
    """A storage file that is read from start to end."""

    defect: str

    def messages(self) -> Iterator[Stored]:
        """Yield every readable message; afterwards `defect` says what is missing, '': nothing."""


def read_summary(path: Path) -> Summary | None:
    """Return the summary at the end of an mcap file; None without one, or if it is damaged."""
    try:
        with path.open('rb') as file:
            file.seek(-FOOTER_BYTES, os.SEEK_END)
            footer = next(StreamReader(file, skip_magic=True).records)
            if not isinstance(footer, Footer) or not footer.summary_start:
                return None
            file.seek(footer.summary_start)
            # The sum covers the summary, and the footer up to the sum itself.
            data = file.read()[:-len(MCAP_MAGIC) - CRC_BYTES]
            if footer.summary_crc not in (0, zlib.crc32(data)):
                return None
            file.seek(0)
            return make_reader(file).get_summary()
    # A damaged file raises many types of exception.
    except Exception:
        return None


def is_indexed(summary: Summary | None) -> bool:
    """Return whether a summary leads to every message of its file, and counts them."""
    if summary is None or not summary.chunk_indexes:
        return False
    is_counted = summary.statistics is None or summary.statistics.channel_message_counts
    return bool(is_counted) and all(chunk.message_index_offsets for chunk in summary.chunk_indexes)


class McapStream:
    """The messages of an mcap file without the use of its index; damaged chunks are left out."""

    def __init__(self, path: Path) -> None:
        self.defect = ''
        self._path = path
        # A lost chunk may be the one that describes the channels; the summary repeats them.
        summary = read_summary(path)
        self._schemas = {} if summary is None else dict(summary.schemas)
        self._keys: dict[int, TopicKey] = {}
        for channel in () if summary is None else summary.channels.values():
            self._take_channel(channel)

    def messages(self) -> Iterator[Stored]:
        """Yield as `Stream` says."""
        damaged = 0
        with self._path.open('rb') as file:
            limit = self._path.stat().st_size  # A longer record is a damaged one.
            records = StreamReader(file, emit_chunks=True, record_size_limit=limit).records
            while True:
                start = file.tell()
                try:
                    record = next(records)
                except StopIteration:
                    end = ''
                    break
                # A damaged file raises many types of exception.
                except Exception:
                    end = _broken_end(file)
                    file.seek(start)
                    yield from self._take(_begun_chunk(file))
                    break
                try:
                    inside = breakup_chunk(record, True) if isinstance(record, Chunk) else [record]
                except Exception:
                    damaged += 1
                else:
                    yield from self._take(inside)
        lost = f'{damaged} damaged chunk{"s" * (damaged > 1)} left out' if damaged else ''
        self.defect = ', '.join(filter(None, [lost, end]))

    def _take(self, records: Iterable[McapRecord]) -> Iterator[Stored]:
        for record in records:
            if isinstance(record, Message):
                key = self._keys.get(record.channel_id)
                if key is not None:
                    yield key, record.log_time, record.data
            elif isinstance(record, Schema):
                self._schemas[record.id] = record
            elif isinstance(record, Channel):
                self._take_channel(record)

    def _take_channel(self, channel: Channel) -> None:
        if channel.message_encoding == CDR and channel.schema_id in self._schemas:
            self._keys[channel.id] = channel.topic, self._schemas[channel.schema_id].name


def _broken_end(file: BinaryIO) -> str:
    """Return why no record can be read at this place of a file."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(MCAP_MAGIC)))
    return (f'the rest is damaged from byte {place} of {size}' if file.read() == MCAP_MAGIC
            else 'the recording ends without an index')


def _begun_chunk(file: BinaryIO) -> Iterator[McapRecord]:
    """Yield the whole records of a chunk that begins at this place and is not complete."""
    stream = ReadDataStream(file)
    try:
        if stream.read1() == Opcode.CHUNK:
            stream.read8()
            contents = BytesIO(_unpacked(Chunk.read(stream)))
            limit = contents.getbuffer().nbytes
            yield from StreamReader(contents, skip_magic=True, record_size_limit=limit).records
    # An incomplete chunk raises many types of exception.
    except Exception:
        return


def _unpacked(chunk: Chunk) -> bytes:
    """Return the contents of a chunk as far as its data go."""
    if chunk.compression == 'zstd':
        return zstandard.ZstdDecompressor().decompressobj().decompress(chunk.data)
    if chunk.compression == 'lz4':
        return lz4.frame.LZ4FrameDecompressor().decompress(chunk.data)
    return chunk.data


class SqliteStream:
    """The messages of a sqlite3 file by their row; unreadable rows are left out.

    What a recorder has written beside the file but not into it yet is read too. BagError if the
    topics cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.defect = ''
        self._path = path
        try:
            with closing(self._open()) as database:
                self._keys = {number: (topic, kind) for number, topic, kind, form in
                              database.execute(
                                  'SELECT id, name, type, serialization_format FROM topics')
                              if form == CDR}
        except sqlite3.Error as error:
            raise BagError(f'{path.name}: cannot read which topics it has: {error}') from error

    def messages(self) -> Iterator[Stored]:
        """Yield as `Stream` says."""
        last, step, failures = 0, 1, 0
        with closing(self._open()) as database:
            while step < WIDEST_STEP:
                try:
                    for row, topic, time_ns, data in database.execute(
                            'SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? '
                            'ORDER BY id', [last]):
                        last, step = row, 1
                        key = self._keys.get(topic)
                        if key and isinstance(data, bytes) and isinstance(time_ns, int):
                            yield key, time_ns, data
                    break
                except sqlite3.Error:
                    failures += 1
                    last, step = last + step, 2 * step
        reasons = ['the database is malformed'] * (failures > 0)
        if is_unmerged(self._path):
            reasons.append('the recorder has not closed the file')
        self.defect = ', '.join(reasons)

    def _open(self) -> sqlite3.Connection:
        """Open for reading beside a recorder; without regard to it where that is not possible."""
        try:
            return self._connect('mode=ro')
        except sqlite3.Error:
            return self._connect('immutable=1')

    def _connect(self, mode: str) -> sqlite3.Connection:
        database = sqlite3.connect(f'{self._path.resolve().as_uri()}?{mode}', LOCK_SEC, uri=True)
        database.text_factory = lambda text: text.decode(errors='replace')
        try:
            # With it a database that is shorter than its header says can be read.
            database.execute('PRAGMA writable_schema=ON')
            database.execute('SELECT count(*) FROM sqlite_master').fetchone()
        except sqlite3.Error:
            database.close()
            raise
        return database


def is_unmerged(path: Path) -> bool:
    """Return whether a sqlite3 file has a log beside it, which a recorder left or still writes."""
    beside = [path.with_name(path.name + suffix) for suffix in ('-wal', '-journal')]
    return any(file.exists() and file.stat().st_size for file in beside)


def in_order(messages: Iterable[Stored]) -> Iterator[Stored]:
    """Yield messages in the order of their times, if none is late by more than a second."""
    waiting: list[tuple[int, int, Stored]] = []
    newest_ns = 0
    for number, message in enumerate(messages):
        newest_ns = max(newest_ns, message[1])
        heappush(waiting, (message[1], number, message))
        while waiting[0][0] < newest_ns - ORDER_SPAN_NS:
            yield heappop(waiting)[2]
    while waiting:
        yield heappop(waiting)[2]
