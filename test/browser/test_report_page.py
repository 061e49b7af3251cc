# SPDX-License-Identifier: Apache-2.0
"""The report of a run in Chromium: no complaint, no request, an orbit, small and dark screens."""
from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import Chromium
from report_values import HOSTILE, hostile_report, room_cloud, room_report

from spann3r_ros.viewer.report_page import REPORT_FILE, Report, encode_report, write_report

GREEN = np.array([60, 150, 20])  # BGR


@pytest.fixture(scope='module')
def report() -> Report:
    return room_report(20_000)


@pytest.fixture(scope='module')
def url(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp('report')
    write_report(folder, report)
    assert [one.name for one in folder.iterdir()] == [REPORT_FILE]
    return f'file://{folder / REPORT_FILE}'


def drawn_share(image: np.ndarray) -> float:
    """Return the share of the pixels that differ from the one in the corner."""
    return float((np.abs(image.astype(int) - image[6, 6]).max(axis=2) > 12).mean())


def fails(browser: Chromium) -> str:
    return browser.evaluate("document.getElementById('fault').textContent")


def test_report_opens_without_complaint_and_without_network(browser: Chromium, url: str) -> None:
    browser.open(url)
    browser.wait_for("document.querySelector('[data-keyframe] img').naturalWidth > 0")
    browser.picture('#above')
    assert (fails(browser), browser.complaints) == ('', [])
    assert browser.requests[0] == url
    assert [one for one in browser.requests[1:] if not one.startswith('data:')] == []


def test_a_request_is_seen_and_refused(browser: Chromium, url: str, tmp_path: Path) -> None:
    text = Path(url.removeprefix('file://')).read_text()
    other = tmp_path / 'other.html'
    other.write_text(text.replace('<main>', '<main><img src="http://127.0.0.1:9/x.png">'))
    browser.open(f'file://{other}')
    assert any('Content Security Policy' in one for one in browser.complaints)


def test_points_are_drawn_and_orbit_with_the_mouse(browser: Chromium, url: str) -> None:
    browser.open(url)
    before = browser.picture('#cloud')
    assert 0.1 < drawn_share(before) < 0.95
    # The room has a green wall.
    assert (np.abs(before.astype(int) - GREEN).max(axis=2) < 40).mean() > 0.005
    left, top, width, height = browser.box('#cloud')
    browser.drag((left + width / 2, top + height / 2), (left + width / 2 + 160, top + height / 2))
    after = browser.picture('#cloud')
    assert (np.abs(before.astype(int) - after).max(axis=2) > 30).mean() > 0.05
    # Reset goes back to the first view.
    browser.evaluate("document.getElementById('reset').click()")
    assert np.abs(browser.picture('#cloud').astype(int) - before).mean() < 1.0


def test_first_view_shows_the_whole_map(browser: Chromium, report: Report,
                                        tmp_path: Path) -> None:
    # The lowest corner of a tall room is nearest to the edge of the view.
    cloud = room_cloud(20_000, (4.0, 4.0, 8.0))
    scene = replace(report.scene, cloud=cloud, positions=report.scene.positions + [0, 0, 5.0])
    write_report(tmp_path, replace(report, scene=scene))
    browser.open(f'file://{tmp_path / REPORT_FILE}')
    image = browser.picture('#cloud')
    drawn = np.abs(image.astype(int) - image[6, 6]).max(axis=2) > 12
    assert drawn.mean() > 0.03
    # Beside the rounded border.
    inside = drawn[8:-8, 8:-8]
    assert not (inside[:4].any() or inside[-4:].any())
    assert not (inside[:, :4].any() or inside[:, -4:].any())


def test_cameras_in_no_order_are_dots_without_a_line(browser: Chromium, report: Report,
                                                     tmp_path: Path) -> None:
    scene = replace(report.scene, is_path=False, thumbnails=[], loops=np.zeros((0, 2, 3)),
                    positions=np.array([[1.0, 1.0, 1.2], [5.0, 1.0, 1.2]]),
                    fragment_ids=np.zeros(2, int))
    write_report(tmp_path, replace(report, scene=scene))
    browser.open(f'file://{tmp_path / REPORT_FILE}')
    browser.picture('#cloud')
    # Connected pixels of the drawing above the cloud: one dot for each camera.
    drawn = np.array(browser.evaluate(
        "(() => {const c = document.getElementById('overlay');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const rows = []; for (let y = 0; y < c.height; y++) { const row = [];"
        "for (let x = 0; x < c.width; x++) row.push(d[4 * (y * c.width + x) + 3] > 128 ? 1 : 0);"
        "rows.push(row);} return rows;})()"), np.uint8)
    assert cv2.connectedComponents(drawn)[0] - 1 == 2
    assert (fails(browser), browser.complaints) == ('', [])


def test_keys_orbit_too(browser: Chromium, url: str) -> None:
    browser.open(url)
    before = browser.picture('#cloud')
    browser.evaluate("document.getElementById('cloud').dispatchEvent("
                     "new KeyboardEvent('keydown', {key: 'ArrowLeft'}))")
    assert (np.abs(before.astype(int) - browser.picture('#cloud')).max(axis=2) > 30).mean() > 0.01


def test_views_from_above_and_from_the_side_show_the_room(browser: Chromium, url: str) -> None:
    browser.open(url)
    above, side = browser.picture('#above'), browser.picture('#side')
    assert drawn_share(above) > 0.2
    assert drawn_share(side) > 0.2
    # From above the wall is a line at the top, from the side an area.
    green = [np.abs(one.astype(int) - GREEN).max(axis=2) < 40 for one in (above, side)]
    rows = np.flatnonzero(green[0].any(axis=1))
    assert rows.max() < above.shape[0] / 2
    assert green[1].mean() > 3 * green[0].mean()


def test_chosen_keyframe_is_shown_in_the_map(browser: Chromium, url: str) -> None:
    browser.open(url)
    before = browser.picture('#cloud')
    browser.evaluate("document.querySelector('[data-keyframe=\"3\"]').click()")
    caption = browser.evaluate("document.querySelector('#selected figcaption').textContent")
    assert caption == '12.000000000'
    assert (np.abs(before.astype(int) - browser.picture('#cloud')).max(axis=2) > 30).mean() > 0.01
    pressed = browser.evaluate("document.querySelector('[aria-pressed=true]').dataset.keyframe")
    assert pressed == '3'


@pytest.mark.parametrize('dark', [False, True])
def test_narrow_screen_needs_no_scrolling_to_the_side(browser: Chromium, url: str,
                                                      dark: bool) -> None:
    browser.open(url, 360, 740, dark)
    assert browser.evaluate('document.documentElement.scrollWidth') <= 360
    assert drawn_share(browser.picture('#cloud')) > 0.05
    background = cv2.cvtColor(browser.picture()[:8, :8], cv2.COLOR_BGR2GRAY).mean()
    assert background < 60 if dark else background > 200
    assert browser.complaints == []


def test_plots_have_lines_within_their_axes(browser: Chromium, url: str) -> None:
    browser.open(url)
    assert browser.evaluate("""[...document.querySelectorAll('.plot .line')].every(line => {
        const box = line.getBBox();
        return box.x >= 50 && box.x + box.width <= 460 && box.y >= 0 && box.height <= 220;
    })""")
    assert browser.evaluate("document.querySelectorAll('.plot .line').length") == 12


def test_texts_of_the_user_are_shown_and_not_run(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / 'hostile.html'
    path.write_text(encode_report(hostile_report(), datetime(2026, 1, 2)))
    browser.open(f'file://{path}')
    assert browser.evaluate('window.hacked === undefined')
    assert browser.evaluate(f'document.title === {HOSTILE!r}')
    assert browser.evaluate('document.body.innerText').count('<script>') >= 4
    assert browser.complaints == []


def test_report_of_an_empty_map_opens(browser: Chromium, report: Report, tmp_path: Path) -> None:
    scene = report.scene
    cloud = replace(scene.cloud, points=scene.cloud.points[:0], colors=scene.cloud.colors[:0],
                    confidence=scene.cloud.confidence[:0])
    write_report(tmp_path, replace(report, scene=replace(
        scene, cloud=cloud, positions=np.zeros((0, 3)), fragment_ids=np.zeros(0, int),
        thumbnails=[], metres=math.nan)))
    browser.open(f'file://{tmp_path / REPORT_FILE}')
    browser.picture('#above')
    assert (fails(browser), browser.complaints) == ('', [])
