# SPDX-License-Identifier: Apache-2.0
"""The messages of a rosbag2 recording, whole or damaged; needs no ROS."""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import zstandard
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError

from .bag_files import ZSTD_MAGIC, BagError, find_files, kind_of, unpack
from .bag_streams import (
    CDR,
    McapStream,
    SqliteStream,
    Stored,
    Stream,
    TopicKey,
    in_order,
    is_indexed,
    is_unmerged,
    read_summary,
)


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag with one type, and how many messages of it can be read."""

    topic: str
    msgtype: str
    msgcount: int

    @property
    def key(self) -> TopicKey:
        """Return topic and type."""
        return self.topic, self.msgtype


class StorageFile:
    """One storage file: read by its index, and without it where the index or a part is damaged.

    `counts` are the messages of each topic. `defect` says what is missing; empty: nothing as far
    as is known, and a damaged part is found only when it is read. BagError for a file of which
    nothing can be read.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.name = path.name
        self.defect = ''
        self._path = path
        self._kind = kind
        self._stream: Stream | None = None
        self._total = 0
        self._reader = self._open_index()
        if self._reader is not None:
            self.counts: Counter[TopicKey] = Counter()
            for one in self._reader.connections:
                if one.ext.serialization_format == CDR:
                    self.counts[_key(one)] += one.msgcount
            return
        self._stream = self._open_stream()
        self.counts = Counter(key for key, _, _ in self._stream.messages())
        self._total = sum(self.counts.values())
        self.defect = self._stream.defect

    def messages(self, wanted: Collection[TopicKey]) -> Iterator[Stored]:
        """Yield the messages of the wanted topics in recorded order."""
        if self._reader is not None:
            return self._by_index(wanted)
        # A recorder may have written more since the messages were counted.
        return (one for one in in_order(islice(self._stream.messages(), self._total))
                if one[0] in wanted)

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()

    def _by_index(self, wanted: Collection[TopicKey]) -> Iterator[Stored]:
        """Yield by the index; after an error go on without it."""
        connections = [one for one in self._reader.connections if _key(one) in wanted]
        if not connections:
            return
        keys = {one.id: _key(one) for one in connections}
        last_ns, last_keys, read = -1, [], Counter()
        try:
            for connection, time_ns, data in self._reader.messages(connections):
                key = keys[connection.id]
                if time_ns != last_ns:
                    last_ns, last_keys = time_ns, []
                last_keys.append(key)
                read[key] += 1
                yield key, time_ns, data
            if any(read[key] < self.counts[key] for key in wanted):
                self._take_account(read, wanted, 'the index counts more messages than there are')
            return
        # The reader raises many types of exception for a broken file.
        except Exception as error:
            reason = line(error)
        try:
            stream = self._open_stream()
            for key, time_ns, data in in_order(stream.messages()):
                if time_ns == last_ns and key in last_keys:
                    last_keys.remove(key)
                elif key in wanted and time_ns >= last_ns:
                    read[key] += 1
                    yield key, time_ns, data
            reason = stream.defect or reason
        except (BagError, OSError) as error:
            reason = line(error)
        self._take_account(read, wanted, reason)

    def _take_account(self, read: Counter[TopicKey], wanted: Collection[TopicKey],
                      defect: str) -> None:
        """Correct what the index says by what was read."""
        for key in wanted:
            self.counts[key] = read[key]
        self.defect = defect

    def _open_index(self) -> Reader | None:
        """Return a reader by the index, None if there is none or it is damaged."""
        if self._kind == 'mcap' and not is_indexed(read_summary(self._path)):
            return None
        if self._kind == 'sqlite3' and is_unmerged(self._path):
            return None
        try:
            reader = Reader(self._path)
            reader.open()
        # The reader raises many types of exception for a broken file.
        except Exception:
            return None
        return reader

    def _open_stream(self) -> Stream:
        return McapStream(self._path) if self._kind == 'mcap' else SqliteStream(self._path)


class Recording:
    """An open recording: a folder of storage files, or one of them; `close` it.

    `notes` say what is wrong with the folder, `files` have the defects of the files. BagError if
    there is no readable file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[StorageFile] = []
        try:
            paths, self.notes = find_files(path)
        except OSError as error:
            raise BagError(f'bag: cannot read {path}: {error.strerror}') from error
        self._stack = ExitStack()
        try:
            reasons = [reason for one in paths if (reason := self._open(one))]
            if not self.files:
                raise BagError(f'bag: cannot read {path}: {"; ".join(reasons)}')
        except BaseException:
            self.close()
            raise
        self.notes += reasons

    @property
    def topics(self) -> list[BagTopic]:
        """Return the topics with the messages of all files."""
        counts = Counter()
        for file in self.files:
            counts.update(file.counts)
        return [BagTopic(*key, count) for key, count in counts.items()]

    @property
    def defects(self) -> list[str]:
        """Return what is wrong with the folder and its files."""
        return self.notes + [f'{file.name}: {file.defect}' for file in self.files if file.defect]

    def count(self, topic: BagTopic) -> int:
        """Return how many messages of a topic can be read, as far as it is known."""
        return sum(file.counts[topic.key] for file in self.files)

    def warnings(self, images: BagTopic) -> list[str]:
        """Return `defects`, with how many images were recovered of each damaged file."""
        return self.notes + [
            f'{file.name}: recovered {file.counts[images.key]} images, {file.defect}'
            for file in self.files if file.defect]

    def messages(self, topics: Collection[BagTopic]) -> Iterator[tuple[BagTopic, int, bytes]]:
        """Yield (topic, time of recording in ns, serialised message) in recorded order.

        Compressed messages are unpacked.
        """
        by_key = {one.key: one for one in topics}
        unpacker = zstandard.ZstdDecompressor()
        for file in self.files:
            try:
                for key, time_ns, data in file.messages(by_key):
                    # A serialised message begins with a zero.
                    if data[:4] == ZSTD_MAGIC:
                        data = _unpacked(unpacker, data)
                    yield by_key[key], time_ns, data
            except OSError as error:
                file.defect = line(error)

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def _open(self, path: Path) -> str:
        """Open one file; return why it cannot be read, or nothing."""
        try:
            kind = kind_of(path)
            if kind == 'zstd':
                path = unpack(path, Path(self._stack.enter_context(TemporaryDirectory())))
                kind = kind_of(path)
            file = StorageFile(path, kind)
        except (BagError, OSError) as error:
            return str(error)
        self._stack.callback(file.close)
        self.files.append(file)
        return ''


def line(error: Exception) -> str:
    """Return an error in one line, with its type where the text alone may say too little."""
    text = ' '.join(str(error).split())
    if text and isinstance(error, (ReaderError, OSError, BagError)):
        return text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _key(connection: Connection) -> TopicKey:
    return connection.topic, connection.msgtype


def _unpacked(unpacker: zstandard.ZstdDecompressor, data: bytes) -> bytes:
    """Return an unpacked message; a damaged one as it is, which its reader refuses."""
    try:
        return unpacker.decompressobj().decompress(data)
    except zstandard.ZstdError:
        return data
