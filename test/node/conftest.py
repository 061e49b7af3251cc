# SPDX-License-Identifier: Apache-2.0
"""Every test uses its own DDS domain, on this machine only."""
from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from domain_coordinator import domain_id

sys.path.insert(0, str(Path(__file__).parent))

from harness import Camera, Mapper, Orbit, Peer, Value, running
from rclpy.lifecycle import LifecycleNode
from robot import Robot


@pytest.fixture(scope='session')
def orbit() -> Orbit:
    return Orbit()


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with domain_id() as number:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(number))
        monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        yield number


@pytest.fixture
def peer(domain: int) -> Iterator[Peer]:
    # Nodes of earlier tests in this process stay in the graph until they are collected.
    gc.collect()
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def node(peer: Peer) -> Iterator[LifecycleNode]:
    node = LifecycleNode('mapper', context=peer.context)
    yield node
    node.destroy_node()


@pytest.fixture
def camera(peer: Peer) -> Camera:
    return Camera(peer)


@pytest.fixture
def robot(peer: Peer, orbit: Orbit) -> Robot:
    return Robot(peer, orbit)


@pytest.fixture
def start(peer: Peer, tmp_path: Path) -> Iterator[Callable[..., Mapper]]:
    """Return a function that starts a mapper; all are killed at the end."""
    with ExitStack() as stack:
        def start_mapper(options: dict[str, Value] | None = None,
                         **parameters: Value) -> Mapper:
            peer.is_known = False
            return stack.enter_context(running(Mapper(tmp_path, options, **parameters)))
        yield start_mapper
