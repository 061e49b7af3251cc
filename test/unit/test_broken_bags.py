# SPDX-License-Identifier: Apache-2.0
"""Every damaged bag gives what can be read of it with a warning, or one line of reason."""
from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from broken_bags import (
    NO_INDEX,
    compress_file,
    compress_messages,
    cut,
    damage,
    edit_metadata,
    leave_log,
    plain_bag,
    rewrite,
    split_bag,
    storage_file,
)
from mcap.writer import CompressionType, IndexType
from recorded_bags import IMAGE_TOPIC, stamp_of

from spann3r_ros.datasets.bag_truth import read_truth
from spann3r_ros.datasets.bag_writer import BagWriter, TruthTopics
from spann3r_ros.datasets.bags import BagError, CameraBag, TopicNames

COUNT = 12
Change = Callable[[Path], object]
ENDS = 'the recording ends without an index'


def rewritten(**options: object) -> Change:
    return lambda bag: rewrite(storage_file(bag), **options)


def both(*changes: Change) -> Change:
    def apply(bag: Path) -> None:
        for change in changes:
            change(bag)
    return apply


def on_file(change: Callable[..., object], *values: object) -> Change:
    return lambda bag: change(storage_file(bag), *values)


def metadata(**values: object) -> Change:
    return lambda bag: edit_metadata(bag, lambda data: data.update(values))


def lying_counts(count: int) -> Change:
    def change(data: dict) -> None:
        data['message_count'] = count
        for one in data['topics_with_message_count']:
            one['message_count'] = count
    return lambda bag: edit_metadata(bag, change)


def written(text: str) -> Change:
    return lambda bag: (bag / 'metadata.yaml').write_text(text)


def read(path: Path) -> tuple[list[int], list[str]]:
    """Return the times of the images that are read, and the warnings."""
    with CameraBag(path) as bag:
        times = [time_ns for _, time_ns, _ in bag.raw()]
        assert bag.count == len(times)
        return times, bag.warnings


def out_of_order(time_ns: int) -> int:
    """Return a key by which every three images come the other way round."""
    index = (time_ns - stamp_of(0)) // (stamp_of(1) - stamp_of(0))
    return index // 3 * 3 - index % 3


@pytest.mark.parametrize('change', [
    rewritten(**NO_INDEX), rewritten(index_types=IndexType.CHUNK), rewritten(use_chunking=False),
    rewritten(use_chunking=False, order=out_of_order), rewritten(order=out_of_order, **NO_INDEX),
    rewritten(compression=CompressionType.LZ4), rewritten(compression=CompressionType.NONE),
    compress_messages, compress_file, both(compress_messages, compress_file),
    metadata(storage_identifier=''), *(metadata(version=version) for version in range(4, 11)),
    lying_counts(0), lying_counts(999), metadata(duration={'nanoseconds': -5}),
    metadata(starting_time={'nanoseconds_since_epoch': 2**63 - 1}),
    metadata(topics_with_message_count=[]), metadata(storage_identifier='sqlite3')])
def test_unusual_bag_is_read_whole_without_a_warning(change: Change, tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', COUNT)
    change(bag)
    assert read(bag) == ([stamp_of(index) for index in range(COUNT)], [])


@pytest.mark.parametrize('change', [lambda bag: None, compress_messages, compress_file])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_bare_file_of_any_name_is_a_bag(change: Change, storage: str, tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', 3, storage)
    change(bag)
    file = storage_file(bag).rename(tmp_path / f'a 50%#?{"".join(storage_file(bag).suffixes)}')
    assert read(file) == ([stamp_of(index) for index in range(3)], [])


@pytest.mark.parametrize(('change', 'expected', 'reason'), [
    (both(rewritten(), on_file(cut, 0.9)), 10, ENDS),
    (both(rewritten(), on_file(cut, 0.5)), 6, ENDS),
    (both(rewritten(compression=CompressionType.LZ4), on_file(cut, 0.9)), 10, ENDS),
    (both(rewritten(compression=CompressionType.NONE), on_file(cut, 0.5)), 6, ENDS),
    (both(rewritten(use_chunking=False), on_file(cut, 0.5)), 6, ENDS),
    (both(rewritten(), compress_file, on_file(cut, 0.6)), 7, ENDS),
    (both(rewritten(), on_file(damage, 0.5)), 8, '1 damaged chunk left out'),
    (both(rewritten(compression=CompressionType.NONE), on_file(damage, 0.1)), 8,
     '1 damaged chunk left out'),
    (both(rewritten(**NO_INDEX), on_file(damage, 0.5)), 8, '1 damaged chunk left out'),
    (both(rewritten(), on_file(damage, 0.5), on_file(cut, 0.9)), 6,
     f'1 damaged chunk left out, {ENDS}')])
def test_damaged_mcap_gives_what_is_whole(
        change: Change, expected: int, reason: str, tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', COUNT)
    change(bag)
    times, warnings = read(bag)
    assert warnings == [f'bag.mcap: recovered {expected} images, {reason}']
    assert len(times) == expected and times == sorted(times)
    assert set(times) < {stamp_of(index) for index in range(COUNT)}


def test_damaged_index_loses_no_image(tmp_path: Path) -> None:
    """Some damages of it lead past messages without an error."""
    file = storage_file(plain_bag(tmp_path / 'bag', COUNT))
    rewrite(file)
    whole = file.read_bytes()
    for place in range(len(whole) - 700, len(whole), 13):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1:])
        assert len(read(file)[0]) == COUNT


def test_index_that_counts_too_many_is_a_warning(tmp_path: Path) -> None:
    file = storage_file(plain_bag(tmp_path / 'bag', COUNT))
    before, statistics = file.read_bytes().rsplit(struct.pack('<HQ', 1, COUNT), 1)
    file.write_bytes(before + struct.pack('<HQ', 1, COUNT + 3) + statistics)
    times, warnings = read(file)
    assert len(times) == COUNT
    assert warnings == [f'bag.mcap: recovered {COUNT} images, the index counts more messages than '
                        'there are']


@pytest.mark.parametrize(('change', 'least', 'most'), [
    (on_file(cut, 0.9), 33, 36), (on_file(cut, 0.5), 17, 20),
    (on_file(damage, 0.3, 4096), 36, 39), (on_file(damage, 0.9, 40_000), 32, 39)])
def test_malformed_database_gives_its_readable_rows(
        change: Change, least: int, most: int, tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', 40, 'sqlite3')
    change(bag)
    times, warnings = read(bag)
    assert warnings == [f'bag.db3: recovered {len(times)} images, the database is malformed']
    assert least <= len(times) <= most and times == sorted(set(times))


@pytest.mark.parametrize('is_writing', [True, False])
def test_log_beside_a_database_is_read(is_writing: bool, tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', COUNT, 'sqlite3')
    recorder = leave_log(storage_file(bag), 5)
    if not is_writing:  # as a recorder that was killed leaves it
        bag = shutil.copytree(bag, tmp_path / 'copy', ignore=shutil.ignore_patterns('*-shm'))
    times, warnings = read(bag)
    recorder.close()
    assert times == [stamp_of(index) for index in range(COUNT)]
    assert warnings == [f'bag.db3: recovered {COUNT} images, the recorder has not closed the file']


@pytest.mark.parametrize('command', ['BEGIN EXCLUSIVE', 'BEGIN IMMEDIATE'])
def test_locked_database_is_read(command: str, tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', 3, 'sqlite3')
    recorder = sqlite3.connect(storage_file(bag))
    recorder.execute(command)
    assert len(read(bag)[0]) == 3
    recorder.close()


def test_transaction_that_was_not_finished_leaves_the_rows_before_it(tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', 20, 'sqlite3')
    recorder = sqlite3.connect(storage_file(bag))
    recorder.execute('PRAGMA cache_size=5')
    recorder.execute('INSERT INTO messages (topic_id, timestamp, data) '
                     'SELECT topic_id, timestamp + 2000000000, data FROM messages')
    copy = shutil.copytree(bag, tmp_path / 'copy')
    recorder.close()
    assert (copy / 'bag.db3-journal').stat().st_size
    times, warnings = read(copy)
    assert set(times) >= {stamp_of(index) for index in range(20)}
    assert len(warnings) == 1 and 'the recorder has not closed the file' in warnings[0]


@pytest.mark.parametrize(('change', 'expected', 'warning'), [
    (lambda bag: (bag / 'bag_1.mcap').unlink(), [0, 1, 4, 5, 6],
     'bag_1.mcap is missing: the recording has a gap'),
    (lambda bag: (bag / 'bag_2.mcap').write_bytes(b''), [0, 1, 2, 3], 'bag_2.mcap: the file is e'),
    (lambda bag: (bag / 'bag_0.mcap').write_bytes(b'\0' * 99), [2, 3, 4, 5, 6],
     'bag_0.mcap: expected an mcap or sqlite3 file, got neither'),
    (lambda bag: cut(bag / 'bag_2.mcap', 0.2), [0, 1, 2, 3],
     f'bag_2.mcap: recovered 0 images, {ENDS}')])
def test_files_of_a_split_bag_do_not_depend_on_each_other(
        change: Change, expected: list[int], warning: str, tmp_path: Path) -> None:
    bag = split_bag(tmp_path / 'bag', (2, 2, 3))
    change(bag)
    times, warnings = read(bag)
    assert times == [stamp_of(index) for index in expected]
    assert len(warnings) == 1 and warnings[0].startswith(warning)


@pytest.mark.parametrize(('change', 'warning'), [
    (lambda bag: (bag / 'metadata.yaml').unlink(), 'is missing'), (written(''), 'cannot be used'),
    (written('{{{'), 'cannot be used'), (written('- 1'), 'cannot be used'),
    (metadata(relative_file_paths=['other.mcap']), 'names no file that is there'),
    (metadata(relative_file_paths=[]), 'names no file that is there')])
def test_files_without_their_metadata_are_read_in_order_of_their_numbers(
        change: Change, warning: str, tmp_path: Path) -> None:
    bag = split_bag(tmp_path / 'bag', (1,) * 11)
    change(bag)
    times, warnings = read(bag)
    assert times == [stamp_of(index) for index in range(11)]
    assert warnings == [f'metadata.yaml {warning}: storage files that are read without it: 11']


def test_ground_truth_of_a_damaged_bag_is_read(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(50):
            bag.write_pose(TruthTopics.poses, stamp_of(index), np.eye(4))
    file = storage_file(tmp_path / 'bag')
    rewrite(file, chunk_size=1000, compression=CompressionType.NONE)
    cut(file, 0.5)
    truth = read_truth(tmp_path / 'bag')
    assert truth is not None and 10 < len(truth.poses) < 40


@pytest.mark.parametrize(('count', 'storage', 'change', 'reason'), [
    (0, 'mcap', lambda bag: None, 'the bag has none: it has no messages'),
    (0, 'sqlite3', lambda bag: None, 'the bag has none: it has no messages'),
    (3, 'mcap', on_file(cut, 0.001), f'it has no messages; bag: .*; bag.mcap: {ENDS}'),
    (3, 'mcap', on_file(cut, 0.0), 'bag.mcap: the file is empty'),
    (3, 'mcap', on_file(damage, 0.0), 'bag.mcap: expected an mcap or sqlite3 file, got neither'),
    (3, 'sqlite3', on_file(cut, 0.02), 'cannot read which topics it has|database is malformed'),
    (3, 'sqlite3', on_file(damage, 0.0, 50_000), 'expected an mcap or sqlite3 file, got neither'),
    (3, 'mcap', on_file(Path.unlink), r'found no file \*.mcap or \*.db3'),
    (3, 'mcap', shutil.rmtree, 'it does not exist'),
    (3, 'mcap', lambda bag: storage_file(bag).write_bytes(b'#ROSBAG V2.0\n'),
     'expected a ROS 2 bag, got one of ROS 1; convert it with `rosbags-convert')])
def test_bag_without_readable_images_is_one_line_of_reason(
        count: int, storage: str, change: Change, reason: str, tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', count, storage)
    change(bag)
    with pytest.raises(BagError, match=reason) as caught:
        CameraBag(bag)
    assert '\n' not in str(caught.value) and 'issue' not in str(caught.value)


def test_path_that_the_system_refuses_is_one_line_of_reason(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='bag: cannot read .*: File name too long'):
        CameraBag(tmp_path / ('x' * 300))


def test_file_that_vanishes_is_a_warning(tmp_path: Path) -> None:
    file = storage_file(plain_bag(tmp_path / 'bag', 3))
    rewrite(file, **NO_INDEX)
    with CameraBag(file) as bag:
        file.unlink()
        assert not list(bag.raw())
        assert len(bag.warnings) == 1 and 'No such file' in bag.warnings[0]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_no_damage_raises_anything_but_a_reason(storage: str, tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'whole', 4, storage)
    for number in range(40):
        broken = shutil.copytree(bag, tmp_path / f'{number}')
        damage(storage_file(broken), number / 40, 16 + number * number)
        try:
            read(broken)
        except BagError as error:
            assert '\n' not in str(error)


def test_images_of_which_none_can_be_read_are_one_line(tmp_path: Path) -> None:
    bag = plain_bag(tmp_path / 'bag', 3)
    rewrite(storage_file(bag), chunk_size=10**9)
    damage(storage_file(bag), 0.3)
    with pytest.raises(BagError, match='topic: expected images on .*, none can be read') as caught:
        CameraBag(bag)
    assert 'damaged chunk' in str(caught.value)
    with CameraBag(bag, TopicNames(IMAGE_TOPIC)) as named:
        assert not list(named.leading())
