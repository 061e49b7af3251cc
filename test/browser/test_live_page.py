# SPDX-License-Identifier: Apache-2.0
"""The live view: what the page shows of a map that grows, and who may ask for it."""
from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
from chromium import DEADLINE_SEC, Chromium
from report_values import room_cloud, room_scene

from spann3r_ros.cli.main import main
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.viewer.live_feed import LiveFeed, to_camera
from spann3r_ros.viewer.live_server import HOST, MOST_LIVE_POINTS, LiveServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[LiveServer]:
    server = LiveServer(0)
    yield server
    server.close()


def ask(server: LiveServer, path: str, host: str | None = None) -> tuple[int, bytes]:
    """Return status and content of an answer."""
    place = urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(place, timeout=30)
    connection.request('GET', path, headers={'Host': host or place})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_page_shows_map_camera_image_and_counts_as_they_grow(browser: Chromium,
                                                             server: LiveServer) -> None:
    browser.open(server.url)
    browser.wait_for("document.getElementById('state').textContent === 'waiting for the map'")
    assert server.is_watched
    left, top, width, height = browser.box('#state')
    assert browser.box('.viewer')[1] - (top + height) >= 8
    pose = MAP_FROM_OPTICAL.copy()
    pose[:3, 3] = 3.0, 1.0, 1.2
    image = np.full((120, 160, 3), (200, 40, 30), np.uint8)
    server.show_camera(to_camera(pose, image, None))
    server.show_counts([('images', '7')])
    shares = []
    for count in (400, 20_000):
        server.show_map(room_scene(count))
        text = f'images 7 · points shown {count:,}'
        browser.wait_for(f"document.getElementById('state').textContent === '{text}'")
        picture = browser.picture('#cloud')
        shares.append((np.abs(picture.astype(int) - picture[6, 6]).max(axis=2) > 12).mean())
    assert shares[1] > max(shares[0], 0.1)
    browser.wait_for("document.querySelector('#selected img').naturalWidth === 160")
    # The camera is drawn above the points, and moves.
    before = browser.picture('#cloud')
    server.show_camera(to_camera(np.vstack([pose[:3] + [[0, 0, 0, -2], [0, 0, 0, 2], [0] * 4],
                                            pose[3:]]), image, None))
    deadline_sec = time.monotonic() + DEADLINE_SEC
    while (np.abs(browser.picture('#cloud').astype(int) - before).max(axis=2) > 60).sum() < 100:
        assert time.monotonic() < deadline_sec
    assert browser.complaints == []
    assert all(one.startswith((server.url, 'data:')) for one in browser.requests)
    server.end()
    browser.wait_for("document.getElementById('state').textContent.startsWith('The run has')")


def test_view_that_was_chosen_stays_while_the_map_grows(browser: Chromium,
                                                        server: LiveServer) -> None:
    server.show_map(room_scene(5000))
    browser.open(server.url)
    browser.wait_for("document.getElementById('state').textContent.includes('5,000')")
    left, top, width, height = browser.box('#cloud')
    browser.drag((left + width / 2, top + height / 2), (left + width / 2 + 90, top + height / 2))
    before = browser.picture('#cloud')
    server.show_map(room_scene(5001))
    browser.wait_for("document.getElementById('state').textContent.includes('5,001')")
    changed = np.abs(browser.picture('#cloud').astype(int) - before).max(axis=2) > 60
    drawn = np.abs(before.astype(int) - before[6, 6]).max(axis=2) > 12
    assert changed.mean() < 0.5 * drawn.mean()


def test_only_this_machine_is_served(server: LiveServer) -> None:
    assert urlsplit(server.url).hostname == HOST == '127.0.0.1'
    assert server._server.server_address[0] == '127.0.0.1'
    assert ask(server, '/')[0] == 200
    assert ask(server, '/', 'localhost:1')[0] == 200
    # A name of another site that leads to this machine.
    assert ask(server, '/map', 'evil.example:80')[0] == 403
    assert ask(server, '/../../etc/passwd')[0] == 404


def test_points_are_bounded(server: LiveServer) -> None:
    scene = room_scene(100)
    server.show_map(scene.__class__(room_cloud(MOST_LIVE_POINTS + 50_000), *[
        getattr(scene, name) for name in ('positions', 'fragment_ids', 'loops', 'thumbnails')]))
    points = json.loads(ask(server, '/map')[1])['points']
    assert (points['count'], points['total']) == (500_000, 550_000)
    # Another map replaces the one before.
    server.show_map(scene)
    assert len(ask(server, '/map')[1]) < 20_000


def test_port_that_is_taken_is_named(server: LiveServer, capsys: pytest.CaptureFixture[str],
                                     tmp_path: Path) -> None:
    port = urlsplit(server.url).port
    assert main(['replay', str(ROOT / 'bags' / 'demo_room'), '--output', str(tmp_path), '--quiet',
                 '--view', '--view-port', str(port)]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert f'port {port} of 127.0.0.1 cannot be used' in error


def test_feed_does_nothing_while_nobody_watches_and_never_waits(server: LiveServer) -> None:
    calls = []
    mapper = SimpleNamespace(snapshot=lambda: calls.append('snapshot'))
    feed = LiveFeed(server, mapper)
    feed.deliver(MapUpdate(moved=(0,)))
    feed.observe(None, None)
    assert calls == []
    feed.close()


def test_replay_is_watched_to_its_end_and_gives_the_same_map(
        browser: Chromium, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ['replay', str(ROOT / 'bags' / 'demo_room'), '--quiet', '--set',
               'keyframes.selection=stride', '--set', 'keyframes.stride=6', '--output']
    watched = Thread(target=main, args=[[*command, str(tmp_path / 'a'), '--view', '--view-port',
                                         '0']])
    watched.start()
    address, deadline_sec = None, time.monotonic() + DEADLINE_SEC
    while address is None:
        assert time.monotonic() < deadline_sec
        address = re.search('live view: (.*)', capsys.readouterr().err)
        time.sleep(0.01)
    browser.open(address.group(1))
    browser.wait_for("document.getElementById('state').textContent.startsWith('The run has')")
    text = browser.evaluate("document.getElementById('state').textContent")
    watched.join(DEADLINE_SEC)
    summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
    assert f'points shown {summary["voxels"]:,}' in text
    assert main([*command, str(tmp_path / 'b')]) == 0
    unwatched = json.loads((tmp_path / 'b' / 'summary.json').read_text())
    assert unwatched['sha256'] == summary['sha256']
