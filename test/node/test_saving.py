# SPDX-License-Identifier: Apache-2.0
"""Saving while images stream, a node that is killed after a save, and maps that are refused."""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath

import pytest
from harness import (
    CAMERA as INTRINSICS,
)
from harness import (
    FRAMES,
    OPTICAL_FRAME,
    Camera,
    Mapper,
    Orbit,
    Peer,
    running,
    stamp_of,
)
from synthetic import SyntheticNetwork, SyntheticOptions, SyntheticScene, orbit_trajectory

from spann3r_ros.core.types import Frame
from spann3r_ros.mapping.mapper import Mapper as Mapping
from spann3r_ros.mapping.storage.map_directory import encode_map, read_map
from spann3r_ros.pipeline.node_settings import from_values

Start = Callable[..., Mapper]
RATE_HZ = 10
RELIABLE = {'qos_overrides./camera/image_raw.subscription.reliability': 'reliable'}


class SlowDiskMapper(Mapper):
    program = FilePath(__file__).with_name('slow_disk_mapper.py')


@pytest.fixture
def slow(peer: Peer, tmp_path: FilePath) -> Iterator[Mapper]:
    with running(SlowDiskMapper(tmp_path, **RELIABLE)) as mapper:
        peer.until(lambda: peer.state() == 'active', 'the node')
        yield mapper


def test_images_are_mapped_while_a_map_is_written(
        peer: Peer, camera: Camera, orbit: Orbit, slow: Mapper) -> None:
    for index in range(3):
        camera.send(orbit.image(index))
        peer.until_settled(index + 1)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(peer.trigger, '/mapper/save_map')]
        folder = slow.map_directory
        peer.until(lambda: (folder / 'begun').exists(), 'the first save')
        # A second save waits for the first one.
        answers.append(pool.submit(peer.trigger, '/mapper/save_map'))
        for index in range(3, 18):
            camera.send(orbit.image(index))
            time.sleep(1.0 / RATE_HZ)
            # On a machine that is busy with other things the next one would replace it.
            status = peer.until_settled(index + 1)
        assert (status.frames_processed, status.frames_dropped) == (18, 0)
        assert not any(one.done() for one in answers) and not (folder / 'map').exists()
        (folder / 'go').touch()
        for one in answers:
            assert one.result().success, one.result().message
    saved = json.loads((folder / 'map' / 'manifest.json').read_text())
    # The second snapshot was taken after the images.
    assert saved['counts']['keyframes'] == 17


def plain_map(orbit: Orbit, count: int) -> Mapping:
    """Return the map of the first images, without a node."""
    network = SyntheticNetwork(SyntheticScene(), orbit_trajectory(FRAMES),
                               SyntheticOptions(index_from_image=True), INTRINSICS)
    settings = from_values({'resampling': 'exact', 'keyframes.selection': 'stride',
                            'fragments.max_keyframes': 5})
    mapper = Mapping(network, settings.mapper)
    for index in range(count):
        mapper.process(Frame(stamp_of(index), OPTICAL_FRAME, orbit.rgb[index]))
    return mapper


def test_a_node_killed_after_a_save_ends_with_the_same_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, tmp_path: FilePath) -> None:
    """A frame is pending when it is saved, and a fragment begins afterwards."""
    first, count = 4, 12
    settings = {'mode': 'replay', 'fragments.max_keyframes': 5}
    mapper = start(**settings)
    camera.send(*(orbit.image(index) for index in range(first)))
    peer.until_settled(first)
    assert peer.trigger('/mapper/save_map').success
    mapper.kill()
    peer.until(lambda: not camera.readers, 'the mapper to be missed')
    peer.statuses().clear()
    mapper = start(**settings)
    assert 'the sequence of the network goes on' in peer.trigger('/mapper/load_map').message
    camera.send(*(orbit.image(index) for index in range(first, count)))
    peer.until_settled(count - first)
    assert peer.trigger('/mapper/save_map').success
    expected = encode_map(plain_map(orbit, count), lambda _: None).write(tmp_path / 'plain')
    found = mapper.map_directory / 'map'
    for name in ('map.ply', 'trajectory.tum', 'state.json', 'state.safetensors'):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def test_damaged_maps_are_refused_and_mapping_goes_on(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(4)))
    before = peer.until_settled(4)
    assert peer.trigger('/mapper/save_map').success
    directory = mapper.map_directory / 'map'
    for name in ('map.ply', 'state.json', 'state.safetensors', 'manifest.json'):
        content = (directory / name).read_bytes()
        for damaged in (content[:len(content) // 2], content.replace(b'0', b'1')):
            (directory / name).write_bytes(damaged)
            answer = peer.trigger('/mapper/load_map')
            assert not answer.success, answer.message
            # The checksums in another manifest are those of other files.
            assert name in answer.message or name == 'manifest.json'
            assert '\n' not in answer.message
        (directory / name).write_bytes(content)
    camera.send(orbit.image(4))
    status = peer.until_settled(5)
    assert (status.frames_processed, status.resets) == (5, before.resets)
    assert status.keyframes == before.keyframes + 1
    assert peer.trigger('/mapper/load_map').success
    read_map(mapper.map_directory)
