# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: a node that watches the mapper's process while it drives it."""
from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import QoSProfile
from spann3r_ros.msg import MapperStatus

from spann3r_ros.tools.processes import Child, private_domain

PATIENCE_SEC = 60.0
ASK_SEC = 2.0
Message = Any  # rclpy's generated classes share no base


class BenchNode(Node):
    """Hears every status of a mapper."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.status: MapperStatus | None = None
        self._known = False
        self._change_state = self.create_client(ChangeState, '/mapper/change_state')
        self.create_subscription(MapperStatus, '/mapper/status', self.take_status,
                                 QoSProfile(depth=100))

    def until_it_answers(self, child: Child) -> None:
        """Wait until the mapper answers a request for its state.

        The request is repeated, because the middleware drops the answer to a client that the
        server has not discovered yet. Clients are discovered in the order in which they were
        made, and this one is the last: after its answer every other one is known.
        """
        client = self.create_client(GetState, '/mapper/get_state')
        self.wait(client.service_is_ready, child)
        asked, futures = -math.inf, []

        def answered() -> bool:
            nonlocal asked
            if time.monotonic() > asked + ASK_SEC:
                asked = time.monotonic()
                futures.append(client.call_async(GetState.Request()))
            return any(future.done() for future in futures)
        self.wait(answered, child)
        self._known = True

    def transit(self, transition: int, child: Child) -> None:
        """Ask for a transition and wait for it."""
        request = ChangeState.Request(transition=Transition(id=transition))
        if not self.ask(self._change_state, request, child).success:
            raise child.failure('refused a transition')

    def ask(self, client: Client, request: Message, child: Child) -> Message:
        """Call a service of the mapper and return the response."""
        if not self._known:
            self.until_it_answers(child)
        self.wait(client.service_is_ready, child)
        future = client.call_async(request)
        self.wait(future.done, child)
        return future.result()

    def take_status(self, status: MapperStatus) -> None:
        """Keep a status."""
        self.status = status

    def hear(self, outputs: dict[str, type]) -> None:
        """Subscribe to outputs of the mapper, so that it makes them."""
        for topic, kind in outputs.items():
            self.create_subscription(kind, f'/mapper/{topic}', lambda _: None, QoSProfile(depth=5))

    def wait(self, condition: Callable[[], object], child: Child) -> None:
        """Spin until a condition holds; ProcessError if the child ends or stays silent."""
        end = time.monotonic() + PATIENCE_SEC
        while not condition():
            child.check()
            if time.monotonic() > end:
                raise child.failure('did not answer')
            rclpy.spin_once(self, timeout_sec=0.05)


@contextmanager
def talking() -> Iterator[None]:
    """Talk over DDS on a domain of one's own, on this machine only."""
    with private_domain() as domain:
        os.environ |= {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
        rclpy.init()
        try:
            yield
        finally:
            rclpy.shutdown()
