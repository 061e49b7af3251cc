# SPDX-License-Identifier: Apache-2.0
"""The values in a report: points and their rounding, samples over time, axes, escaped texts."""
from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_values import (
    HOSTILE,
    hostile_report,
    room_cloud,
    room_record,
    room_report,
    room_scene,
    sample,
)

from spann3r_ros.cli.commands.scores.report import logged_warnings
from spann3r_ros.cli.main import main
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.viewer.map_scene import MOST_POINTS, saved_scene, spread
from spann3r_ros.viewer.plots import Line, Plot, draw_plot, nice_ticks
from spann3r_ros.viewer.point_buffer import buffer_points
from spann3r_ros.viewer.report_page import encode_report
from spann3r_ros.viewer.run_record import MOST_SAMPLES, RunRecord, metric_scale

ROOT = Path(__file__).parents[2]
WRITTEN = datetime(2026, 1, 2, 3, 4)


def scene_in(html: str) -> dict[str, Any]:
    """Return the scene that a report holds."""
    return json.loads(re.search(r'id="scene">(.*?)</script>', html).group(1))


def test_points_of_a_map_of_30_m_are_right_to_a_millimetre() -> None:
    cloud = room_cloud(20_000, (30.0, 30.0, 30.0))
    buffer = buffer_points(cloud, 20_000)
    assert np.abs(buffer.points() - cloud.points).max() <= buffer.rounding + 1e-9
    assert buffer.rounding < 1e-3
    entry = scene_in(encode_report(room_report(500), WRITTEN))['points']
    places = np.frombuffer(base64.b64decode(entry['places']), '<u2').reshape(-1, 3)
    again = np.array(entry['low']) + places * entry['step']
    assert np.abs(again - room_cloud(500).points).max() < 1e-4
    assert base64.b64decode(entry['colors']) == room_cloud(500).colors.tobytes()


def test_report_of_200000_points_has_less_than_four_megabytes() -> None:
    html = encode_report(room_report(MOST_POINTS), WRITTEN)
    assert scene_in(html)['points']['count'] == 200_000
    assert len(html.encode()) < 4e6


def test_larger_maps_are_thinned_evenly_and_the_report_states_it() -> None:
    cloud = room_cloud(3000)
    buffer = buffer_points(cloud, 1000)
    assert (len(buffer), buffer.total) == (1000, 3000)
    # Each of the three surfaces keeps a third of its points.
    shares = [np.mean((buffer.colors == color).all(axis=1))
              for color in np.unique(cloud.colors, axis=0)]
    assert np.allclose(shares, 1 / 3, atol=0.05)
    assert np.array_equal(buffer.places, buffer_points(cloud, 1000).places)
    assert room_scene(3000).entry(1000)['points']['total'] == 3000
    html = encode_report(room_report(MOST_POINTS + 1), WRITTEN)
    assert '200,000 of 200,001' in html


def test_points_that_are_not_finite_are_left_out() -> None:
    cloud = room_cloud(10)
    cloud.points[3] = np.nan
    buffer = buffer_points(VoxelCloud(cloud.points, cloud.colors, cloud.confidence), 10)
    assert (len(buffer), buffer.total) == (9, 9)
    assert len(buffer_points(VoxelCloud(cloud.points[:0], cloud.colors[:0],
                                        cloud.confidence[:0]), 10)) == 0


@pytest.mark.parametrize('count', [1, MOST_SAMPLES, MOST_SAMPLES + 1, 5 * MOST_SAMPLES + 3])
def test_record_is_bounded_and_keeps_the_newest_and_the_peak(count: int) -> None:
    record = RunRecord()
    for number in range(count):
        record.add(sample(number, latency_sec=9.0 if number == count // 2 else 0.1))
    columns = record.columns()
    assert min(count, MOST_SAMPLES // 2) <= len(columns['stamp_ns']) <= MOST_SAMPLES
    assert columns['stamp_ns'][-1] == (count - 1) * 10**8
    assert max(columns['latency_sec']) == 9.0
    assert (np.diff(columns['stamp_ns']) > 0).all()
    assert RunRecord.of(json.loads(json.dumps(columns))).columns()['voxels'] == columns['voxels']


def test_scale_is_unknown_unless_metric() -> None:
    assert np.isnan(metric_scale(False, 1.0, math.inf)).all()
    assert metric_scale(True, 2.0, 0.01) == (2.0, pytest.approx(0.2))


@pytest.mark.parametrize(('low', 'high'), [(0.0, 0.83), (0.0, 1700.0), (-3.0, 4.0), (5.0, 5.0),
                                           (0.0, 0.0), (1e9, 1e9 + 7)])
def test_ticks_are_round_and_span_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7
    inside = nice_ticks(low, high, inside=True)
    assert all(low - 1e-9 <= one <= max(high, low + (low or 1)) + 1e-6 for one in inside)


def test_whole_numbers_have_whole_ticks() -> None:
    assert nice_ticks(0.0, 1.0, least=1.0) == [0.0, 1.0]


def test_plot_interrupts_its_line_where_a_value_is_missing() -> None:
    html = draw_plot(Plot('Scale', 'm', [Line('a', [1.0, math.nan, 2.0, 3.0])]), np.arange(4.0),
                     'seconds')
    assert re.search(r'class="line s1" d="(.*?)"', html).group(1).count('M') == 2
    assert 'Scale over seconds. a: 1 to 3, last 3 m' in html


def test_plot_without_values_says_why() -> None:
    html = draw_plot(Plot('Scale', 'm', [Line('a', [math.nan])], 'not metric'), np.zeros(1), 's')
    assert 'not metric' in html
    assert '<svg' not in html


def test_texts_of_the_user_are_escaped() -> None:
    html = encode_report(hostile_report(), WRITTEN)
    assert 'window.hacked' in html
    assert HOSTILE not in html
    # The blocks of data and program are the only ones; the policy allows only that program.
    assert html.count('<script') == html.count('</script>') == 2
    assert 'onerror="' not in html


def test_report_names_no_address_to_load_from() -> None:
    html = encode_report(room_report(300), WRITTEN)
    assert re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?(?!data:)[^"\'\s>]+', html) == [
        'src = one.image;', 'src = scene.keyframes[index].image;',
        'src = scene.keyframes[index].image;']
    assert 'http' not in html.replace('http-equiv', '')


def test_changed_settings_are_listed_first() -> None:
    html = encode_report(room_report(300), WRITTEN)
    changed = html[html.index('Settings that were changed'):html.index('All settings')]
    assert 'mode' in changed
    assert 'voxel_map' not in changed


def test_same_report_is_written_byte_by_byte() -> None:
    assert encode_report(room_report(300), WRITTEN) == encode_report(room_report(300), WRITTEN)


def test_record_of_frames_without_time_is_plotted_by_their_number() -> None:
    record = RunRecord()
    for stamp_ns in (5, 3, 4):
        record.add(sample(1, stamp_ns=stamp_ns))
    assert 'processed frames</text>' in encode_report(
        room_report(300).__class__('x', [], [], [], room_scene(300), record), WRITTEN)
    assert 'seconds</text>' in encode_report(room_report(300), WRITTEN)


def test_photographs_in_no_order_have_names_and_no_path() -> None:
    report = room_report(300)
    scene = replace(report.scene, is_path=False, metres=math.nan, thumbnails=[
        replace(one, label=f'IMG {number}.jpg')
        for number, one in enumerate(report.scene.thumbnails)])
    record = RunRecord()
    for number in range(6):
        record.add(sample(1, stamp_ns=number * 10**10))
    html = encode_report(replace(report, scene=scene, record=record, image_ns=10**10), WRITTEN)
    assert 'IMG 3.jpg</span>' in html
    assert 'a path of' not in html and '> path and cameras' not in html
    assert 'class="gradient"' not in html
    assert not scene_in(html)['is_path']
    assert 'images</text>' in html and 'over seconds' not in html
    # The axis ends at the sixth image.
    assert re.search(r'class="middle">6</text>', html)


def test_some_of_many_are_spread_with_first_and_last() -> None:
    assert spread(3, 10).tolist() == [0, 1, 2]
    assert spread(0, 10).tolist() == []
    assert spread(1000, 10).tolist()[::9] == [0, 999]


def test_warnings_of_a_log_are_counted(tmp_path: Path) -> None:
    log = tmp_path / 'mapper.log'
    log.write_text('[INFO] [17.5] [mapper]: fine\n[WARN] [17.5] [mapper]: slow <b>\n'
                   '[WARN] [18.5] [mapper]: slow <b>\n[ERROR] [18.5] [a.b]: lost\n')
    assert logged_warnings(log) == ['slow <b> (2 times)', 'lost']
    assert logged_warnings(tmp_path / 'none') == []


def test_replay_writes_a_report_of_its_map(tmp_path: Path) -> None:
    assert main(['replay', str(ROOT / 'bags' / 'demo_room'), '--output', str(tmp_path), '--quiet',
                 '--set', 'keyframes.selection=stride', '--set', 'keyframes.stride=8']) == 0
    html = (tmp_path / 'report.html').read_text()
    summary = json.loads((tmp_path / 'summary.json').read_text())
    scene = scene_in(html)
    assert scene['points']['total'] == summary['voxels']
    assert len(scene['path']) == len(scene['keyframes']) == summary['poses'] == 8
    assert re.search(r'weights</th><td>[^<]*[.]safetensors</td>', html)
    assert re.search(r'device</th><td>(cpu|cuda)</td>', html)
    assert 'keyframes.stride' in html[:html.index('All settings')]
    assert summary['sha256']['map'] in html
    assert html.count('<figure class="plot">') == 7
    assert re.search('Confidence over seconds. mean of a keyframe: 0[.][0-9]+ to 0[.][0-9]+', html)
    # The saved map gives the same scene.
    saved = saved_scene(tmp_path).entry()
    assert saved['points'] == scene['points']
    assert np.allclose(saved['path'], scene['path'], atol=1e-4)
    assert [one['stamp'] for one in saved['keyframes']] == [one['stamp']
                                                            for one in scene['keyframes']]
    assert len(read_ply(tmp_path / 'map' / 'map.ply')) == scene['points']['total']


def test_record_of_a_run_has_a_sample_for_each_processed_frame() -> None:
    assert len(room_record(30).columns()['confidence']) == 30
