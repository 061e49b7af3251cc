# SPDX-License-Identifier: Apache-2.0
"""A camera faster than the network: used and dropped images, and the reported latency."""
from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from harness import START_NS, Camera, Mapper, Orbit, Peer, balanced, raw_image, to_ns
from spann3r_ros.msg import MapperStatus

from spann3r_ros.pipeline.worker import WINDOW

Start = Callable[..., Mapper]
RATE_HZ = 30
NETWORK_SEC = 0.2
LONG_SEC, SHORT_SEC = 20, 6
# Deep enough that every image reaches the node, which then drops what it must.
LIVE = {'qos_overrides./camera/image_raw.subscription.reliability': 'reliable',
        'qos_overrides./camera/image_raw.subscription.depth': 100}


def play(camera: Camera, orbit: Orbit, duration_sec: float) -> dict[int, float]:
    """Publish at 30 Hz; return when each stamp was sent."""
    camera.connect()
    sent_sec = {}
    begin = time.monotonic()
    for count in range(int(duration_sec * RATE_HZ)):
        stamp_ns = START_NS + count * 10**9 // RATE_HZ
        image = raw_image(orbit.rgb[count % len(orbit.rgb)], stamp_ns)
        # A camera publishes at its own rate, whatever its subscribers do.
        time.sleep(max(0.0, begin + count / RATE_HZ - time.monotonic()))
        sent_sec[stamp_ns] = time.monotonic()
        camera.send(image)
    return sent_sec


def test_a_slow_network_gets_the_newest_images_and_reports_the_true_latency(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    arrived_sec: dict[int, float] = {}

    def note(status: MapperStatus) -> None:
        arrived_sec.setdefault(to_ns(status.header.stamp), time.monotonic())

    peer.node.create_subscription(MapperStatus, '/mapper/status', note, 1000)
    start({'delay_sec': NETWORK_SEC}, **LIVE)
    statuses = peer.statuses()
    sent_sec = play(camera, orbit, LONG_SEC)
    last = peer.until_settled(len(sent_sec))
    peer.until(lambda: to_ns(last.header.stamp) in arrived_sec, 'the newest stamp')

    assert all(balanced(one) for one in statuses)
    assert last.frames_failed == last.frames_skipped == 0
    # However busy the machine is, the network has taken its time for each that it processed.
    took_sec = time.monotonic() - min(sent_sec.values())
    assert 2 <= last.frames_processed <= took_sec / NETWORK_SEC
    assert last.frames_dropped == len(sent_sec) - last.frames_processed
    assert to_ns(last.header.stamp) == max(sent_sec)
    reported = latencies(statuses)
    assert reported
    for stamp, latency_sec in reported.items():
        assert NETWORK_SEC <= latency_sec <= arrived_sec[stamp] - sent_sec[stamp]
    assert NETWORK_SEC <= last.latency_mean_sec <= last.latency_max_sec
    if len(reported) == last.frames_processed <= WINDOW:
        assert last.latency_mean_sec == pytest.approx(np.mean(list(reported.values())))


def latencies(statuses: list[MapperStatus]) -> dict[int, float]:
    """Return the latency reported for each processed frame, by its stamp."""
    return {to_ns(after.header.stamp): after.latency_last_sec
            for before, after in pairwise(statuses)
            if after.frames_processed == before.frames_processed + 1}


@pytest.mark.parametrize('max_rate', [5.0, 12.0])
def test_max_rate_is_kept(
        max_rate: float, peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(max_rate=max_rate, **LIVE)
    peer.statuses()
    sent_sec = play(camera, orbit, SHORT_SEC)
    last = peer.until_settled(len(sent_sec))
    taken = last.frames_received - last.frames_skipped
    assert taken / SHORT_SEC == pytest.approx(max_rate, rel=0.1)
    assert last.frames_failed == 0
