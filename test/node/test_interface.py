# SPDX-License-Identifier: Apache-2.0
"""The tables of topics and services in docs/interface.md are those of the running node."""
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Mapper, Peer

Start = Callable[..., Mapper]
Graph = dict[str, str]
INTERFACE = (Path(__file__).parents[2] / 'docs' / 'interface.md').read_text()
# Every node's, and every lifecycle node's.
COMMON = re.compile(
    r'/rosout|/parameter_events|/clock|/mapper/(transition_event|get_state|change_state'
    r'|get_available_(states|transitions)|get_transition_graph|.*parameter.*'
    r'|get_type_description)')
REMAPPED = {'/image': '/camera/image_raw', '/camera_info': '/camera/camera_info'}


def table(head: str) -> Graph:
    """Return name -> type, without its package, of the table that begins with `head`."""
    rows = INTERFACE[INTERFACE.index(f'| {head} | type | |'):].split('\n\n')[0].splitlines()[2:]
    found = {}
    for row in rows:
        names, kinds = (re.findall(r'`([^`]+)`', cell) for cell in row.split('|')[1:3])
        kinds = kinds[:len(names)] or ['tf2_msgs/TFMessage']
        for name, kind in zip(names, kinds, strict=True):
            path = name.replace('~', '/mapper') if name[0] in '~/' else f'/{name}'
            found[REMAPPED.get(path, path)] = kind.split('/')[-1]
    return found


def graph(endpoints: dict[str, list[str]]) -> Graph:
    """Return name -> type, without its package, of the ROS graph, without the common ones."""
    return {name: kinds[0].split('/')[-1] for name, kinds in endpoints.items()
            if not COMMON.fullmatch(name)}


@pytest.mark.parametrize(('head', 'ask'), [
    ('input', 'get_subscriber_names_and_types_by_node'),
    ('output', 'get_publisher_names_and_types_by_node'),
    ('service', 'get_service_names_and_types_by_node')])
def test_document_lists_topics_and_services_of_the_node(
        head: str, ask: str, peer: Peer, start: Start) -> None:
    expected = table(head)
    assert len(expected) >= 3
    nodes = ['mapper', 'mapper_tf_listener'] if head == 'input' else ['mapper']
    start(mask='latest', **{'scale.source': 'depth'})
    peer.until(lambda: peer.state() == 'active', 'the node to be active')
    peer.until(lambda: graph(peer.endpoints(ask, *nodes)) == expected,
               f'{expected}, the {head}s of docs/interface.md')
