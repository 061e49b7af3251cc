# SPDX-License-Identifier: Apache-2.0
"""The recorded time of a bag that is played, on /clock."""
from __future__ import annotations

from time import monotonic

from rclpy.clock import Clock as NodeClock
from rclpy.clock import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

# As often as by `ros2 bag play --clock`.
PERIOD_SEC = 0.025


class PlayedTime:
    """The recorded time, on /clock: it does not stand still between images, nor goes back."""

    def __init__(self, node: Node, start_ns: int) -> None:
        self._publisher = node.create_publisher(Clock, '/clock', QoSProfile(depth=1))
        self._now_ns = start_ns
        # From when on in wall time, and how fast, the time goes on; 0: it stands still.
        self._since_sec, self._rate = monotonic(), 0.0
        self._next_ns = start_ns
        node.create_timer(PERIOD_SEC, self._send,
                          clock=NodeClock(clock_type=ClockType.STEADY_TIME))

    def reach(self, time_ns: int) -> None:
        """Send the time of a message that is published next; an earlier one changes nothing."""
        self._now_ns = max(self._now_ns, time_ns)
        self._rate = 0.0
        self._send()

    def go_on(self, next_ns: int, rate: float) -> None:
        """Go on at a rate until the time of the next message."""
        self._since_sec, self._rate, self._next_ns = monotonic(), rate, next_ns

    def _send(self) -> None:
        if self._rate:
            now_sec = monotonic()
            passed_ns = int((now_sec - self._since_sec) * self._rate * 1e9)
            self._since_sec = now_sec
            self._now_ns = max(self._now_ns, min(self._now_ns + passed_ns, self._next_ns))
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(self._now_ns, 10**9)
        self._publisher.publish(message)
