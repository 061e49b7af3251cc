# SPDX-License-Identifier: Apache-2.0
"""Bags that the package writes are such that the reader of ROS 2 Jazzy's rosbag2 takes them.

The rules are those of rosbag2_storage: which entries it reads without a default, their types, and
the texts that it knows for each policy. It reads `metadata.yaml`, and the copy in the mcap file.
"""
from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcap.reader import make_reader
from recorded_bags import robot_bag

from spann3r_ros.datasets.bags import CameraBag, TopicNames

POLICIES = {
    'history': {'system_default', 'keep_last', 'keep_all', 'unknown'},
    'reliability': {'system_default', 'reliable', 'best_effort', 'best_available', 'unknown'},
    'durability': {'system_default', 'transient_local', 'volatile', 'best_available', 'unknown'},
    'liveliness': {'system_default', 'automatic', 'manual_by_topic', 'best_available', 'unknown'}}
DURATIONS = ('deadline', 'lifespan', 'liveliness_lease_duration')
TEXTS = ('name', 'type', 'serialization_format', 'type_description_hash')


def check_count(value: object) -> None:
    assert isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64, value


def check_profiles(profiles: object) -> None:
    assert isinstance(profiles, list)
    for one in profiles:
        for name, known in POLICIES.items():
            assert one[name] in known
        check_count(one['depth'])
        assert isinstance(one['avoid_ros_namespace_conventions'], bool)
        for name in DURATIONS:
            check_count(one[name]['sec'])
            check_count(one[name]['nsec'])


def check_metadata(values: dict[str, Any]) -> None:
    """Check what version 9 reads."""
    assert values['version'] == 9
    for name in ('storage_identifier', 'compression_format', 'compression_mode', 'ros_distro'):
        assert isinstance(values[name], str)
    for place in (values, *values['files']):
        check_count(place['duration']['nanoseconds'])
        check_count(place['starting_time']['nanoseconds_since_epoch'])
        check_count(place['message_count'])
    assert values['custom_data'] is None or isinstance(values['custom_data'], dict)
    assert [one['path'] for one in values['files']] == values['relative_file_paths']
    for one in values['topics_with_message_count']:
        check_count(one['message_count'])
        topic = one['topic_metadata']
        assert all(isinstance(topic[name], str) for name in TEXTS)
        assert topic['type_description_hash'].startswith('RIHS01_')
        check_profiles(topic['offered_qos_profiles'])
    assert values['message_count'] == sum(
        one['message_count'] for one in values['topics_with_message_count'])


def profiles_in_file(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the profiles that the storage file has itself, by topic."""
    if path.suffix == '.mcap':
        with path.open('rb') as file:
            reader = make_reader(file)
            # Without this copy the reader takes the profiles for those of an older version.
            copy, = (one for one in reader.iter_metadata() if one.name == 'rosbag2')
            check_metadata(yaml.safe_load(copy.metadata['serialized_metadata']))
            return {one.topic: yaml.safe_load(one.metadata['offered_qos_profiles'])
                    for one in reader.get_summary().channels.values()}
    with sqlite3.connect(path) as database:
        assert database.execute('SELECT schema_version FROM schema').fetchone()[0] >= 3
        texts = database.execute('SELECT metadata FROM metadata').fetchall()
        check_metadata(yaml.safe_load(texts[-1][0]))
        return {name: yaml.safe_load(text) for name, text in database.execute(
            'SELECT name, offered_qos_profiles FROM topics')}


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_written_bag_has_what_the_reader_of_rosbag2_reads(tmp_path: Path, storage: str) -> None:
    path = robot_bag(tmp_path / 'bag', 3, storage)
    values = yaml.safe_load((path / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    check_metadata(values)
    named = {one['topic_metadata']['name']: one['topic_metadata']['offered_qos_profiles']
             for one in values['topics_with_message_count']}
    in_file = profiles_in_file(path / values['relative_file_paths'][0])
    for profiles in (named, in_file):
        latched, = profiles['/tf_static']
        assert (latched['durability'], latched['reliability']) == ('transient_local', 'reliable')
        # Without a profile `ros2 bag play` offers the default: volatile and reliable.
        assert not profiles['/tf'] and not profiles['/camera/image_raw']
        for one in profiles.values():
            check_profiles(one)
    with CameraBag(path, TopicNames('/camera/image_raw')) as bag:
        assert bag.count == 3
