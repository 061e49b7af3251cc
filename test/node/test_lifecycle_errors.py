# SPDX-License-Identifier: Apache-2.0
"""A transition that fails half way leads to a state from which the node can be used again."""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rclpy
from bomb import explode, write_bomb
from harness import Mapper, Peer, running
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from synthetic_mapper import create_network
from test_lifecycle import NOT_CONFIGURED, answers, topics_of

from spann3r_ros.ros.mapper_node import MapperNode
from spann3r_ros.ros.outputs.diagnostics import Diagnostics
from spann3r_ros.ros.outputs.publishers import MapPublishers

Start = Callable[..., Mapper]
SUCCESS, ERROR = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.ERROR


class RealMapper(Mapper):
    """The executable that is installed, with its own network."""

    program = Path(__file__).parents[2] / 'scripts' / 'mapper_node'


@pytest.fixture
def node(domain: int) -> Iterator[MapperNode]:
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = MapperNode(create_network)
    yield node
    node.close()
    node.destroy_node()
    rclpy.shutdown()


def test_a_node_that_cannot_be_activated_is_unconfigured_again(peer: Peer, start: Start) -> None:
    mapper = start(autostart=False, **{
        'qos_overrides./camera/image_raw.subscription.reliability': 'sometimes'})
    bare = peer.until(lambda: peer.state() and topics_of(peer), 'the node')
    threads = []
    for round_ in range(2):
        assert peer.change_state('configure')
        assert not peer.change_state('activate')
        assert peer.state() == 'unconfigured'
        peer.until(lambda: topics_of(peer) == bare, 'the publishers to go')
        peer.until(lambda: not peer.node.count_subscribers('/camera/camera_info'),
                   'the subscriptions to go')
        assert mapper.log.count('on_activate: Traceback') == round_ + 1
        threads.append(mapper.threads)
    assert threads[0] == threads[1]
    assert answers(peer, mapper) == NOT_CONFIGURED
    assert peer.change_state('configure')
    assert peer.trigger('/mapper/reset').success


@pytest.mark.parametrize(('transition', 'owner', 'method'), [
    ('deactivate', MapPublishers, 'pause'), ('cleanup', Diagnostics, 'destroy')])
def test_an_error_in_deactivate_leaves_a_node_that_can_be_configured(
        transition: str, owner: type, method: str, node: MapperNode,
        monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError('a fault of the test')

    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    with monkeypatch.context() as faulty:
        faulty.setattr(owner, method, fail)
        if transition == 'cleanup':
            assert node.trigger_deactivate() == SUCCESS
        assert getattr(node, f'trigger_{transition}')() == ERROR
    assert 'mapper_worker' not in {thread.name for thread in threading.enumerate()}
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert node.trigger_deactivate() == SUCCESS


def test_code_in_a_checkpoint_is_refused_and_never_runs(peer: Peer, tmp_path: Path) -> None:
    trace = tmp_path / 'trace'
    bombs = [tmp_path / 'bomb.pth', tmp_path / 'old_bomb.pth']
    for path in bombs:
        write_bomb(path, trace, as_zip=path is bombs[0])
    with running(RealMapper(tmp_path, autostart=False, device='cpu')) as mapper:
        for path in bombs:
            assert peer.set_text('checkpoint', str(path)).successful
            assert not peer.change_state('configure')
            assert not trace.exists()
            assert f'on_configure failed: checkpoint: cannot read {path}' in mapper.log
            assert peer.state() == 'unconfigured'
        assert peer.set_text('checkpoint', '').successful
        assert peer.change_state('configure'), 'this mapper takes no checkpoint at all'
    for path in bombs:
        explode(path)
        assert trace.exists(), 'the bomb is a dud: this test could not fail'
        trace.unlink()
