# SPDX-License-Identifier: Apache-2.0
"""The report of a run: one HTML file that needs no network and no other file."""
from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from spann3r_ros.core.files import write_files
from spann3r_ros.core.settings import Setting
from spann3r_ros.pipeline.node_settings import Settings, all_settings

from .map_scene import MapScene
from .plots import Line, Plot, draw_plot
from .run_record import RunRecord

REPORT_FILE = 'report.html'
FOLDER = Path(__file__).parent
# The axis of the plots: the time of the images, their number, or that of the samples.
SECONDS, IMAGES, FRAMES = 'seconds', 'images', 'processed frames'


@dataclass(frozen=True)
class Report:
    """The contents of a report.

    `counts` are rows of a name and a value. `network` names the network and its weights. The
    stamps of images without a time are `image_ns` apart and count them; None: the images have
    times.
    """

    title: str
    counts: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    network: Sequence[tuple[str, str]]
    scene: MapScene
    record: RunRecord = field(default_factory=RunRecord)
    settings: Settings = field(default_factory=Settings)
    image_ns: int | None = None


def write_report(folder: Path, report: Report) -> Path:
    """Write `report.html` into a folder; return its path. Raises OSError."""
    path = folder / REPORT_FILE
    write_files({path: encode_report(report, datetime.now(timezone.utc)).encode()})
    return path


def encode_report(report: Report, written: datetime) -> str:
    """Return a report as HTML; texts of the user are escaped."""
    scene = report.scene.entry()
    viewer = VIEWER if report.scene.is_path else PLACES_VIEWER
    body = ''.join([
        f'<header><h1>{escape(report.title)}</h1>'
        f'<p>{escape(_headline(report, scene))} · written {written:%Y-%m-%d %H:%M} UTC</p>'
        '</header><main>',
        _warnings(report.warnings), '<h2>Map</h2>', viewer, _strip(scene['keyframes']), VIEWS,
        _plots(report.record, report.image_ns), '<section class="tables">',
        _table('Counts', report.counts), _table('Network', report.network),
        _table('Drawing', _drawing(report.scene, scene)), '</section>',
        _settings(report.settings), '</main>'])
    return page(report.title, body, ['viewer.js', 'report.js'], {'scene': scene})


def page(title: str, body: str, programs: Sequence[str], data: dict[str, Any],
         connect: str = '') -> str:
    """Return an HTML page with its style, programs of this folder, and data for them.

    The page may load nothing else and run nothing else; `connect` is what its programs may ask
    for: a source of the Content Security Policy, or empty.
    """
    program = '\n'.join((FOLDER / name).read_text('utf-8') for name in programs)
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    style = (FOLDER / 'page.css').read_text('utf-8')
    policy = (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
              f"script-src 'sha256-{digest}'")
    policy += f'; connect-src {connect}' if connect else ''
    blocks = ''.join(f'<script type="application/json" id="{name}">{_json(value)}</script>'
                     for name, value in data.items())
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f'<title>{escape(title)}</title><style>{style}</style>'
            f'</head><body>{body}{blocks}<script>{program}</script></body></html>\n')


_VIEWER = """
<section aria-label="Map">
<div class="viewer">
<canvas id="cloud" tabindex="0" role="img"
aria-label="The coloured points of the map. Drag to orbit, shift and drag to move, turn the wheel
to zoom; arrow keys, plus and minus do the same."></canvas>
<canvas id="overlay" aria-hidden="true"></canvas>
<p id="fault" role="alert" hidden></p>
<figure id="selected" hidden><img alt=""><figcaption></figcaption></figure>
</div>
<div class="controls">
<label>Colour <select id="colouring"><option value="0">image</option>
<option value="1">confidence</option><option value="2">height</option></select></label>
<label>Point size <input id="size" type="range" min="-2" max="2" step="0.1" value="0"></label>
<label><input id="cut" type="checkbox" checked> without the ceiling</label>
<label><input id="cameras" type="checkbox" checked> {drawn}</label>
<button id="reset" type="button">Reset the view</button>
{gradient}</div>
<p class="hint">Drag: orbit. Shift or right button and drag, or two fingers: move. Wheel or
pinch: zoom. Arrow keys, + and − work too.</p></section>"""
# The viewer of a path, and that of cameras in no order.
VIEWER = _VIEWER.format(
    drawn='path and cameras',
    gradient='<span class="gradient" aria-hidden="true">start<i></i>end</span>\n')
PLACES_VIEWER = _VIEWER.format(drawn='cameras', gradient='')

VIEWS = """
<section><h2>From above and from the side</h2><div class="views">
<figure><canvas id="above" role="img" aria-label="The map and the cameras from above"></canvas>
<figcaption>from above, without the ceiling</figcaption></figure>
<figure><canvas id="side" role="img" aria-label="The map and the cameras from the side"></canvas>
<figcaption>from the side</figcaption></figure></div></section>"""


def _headline(report: Report, scene: dict[str, Any]) -> str:
    text = f'{scene["points"]["total"]:,} points, {len(report.scene.positions)} poses'
    if not report.scene.is_path:
        return text
    length = np.linalg.norm(np.diff(report.scene.positions, axis=0), axis=1)
    same = np.diff(report.scene.fragment_ids) == 0
    metres = report.scene.metres
    walked = float(length[same].sum()) * (metres if math.isfinite(metres) else 1.0)
    unit = 'm' if math.isfinite(metres) else 'map units (the scale is not known)'
    return f'{text}, a path of {walked:.2f} {unit}'


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ''
    items = ''.join(f'<li>{escape(text)}</li>' for text in warnings)
    number = f'{len(warnings)} warning{"s" * (len(warnings) != 1)}'
    return (f'<details class="warnings"{" open" * (len(warnings) <= 5)}><summary>{number}'
            f'</summary><ul>{items}</ul></details>')


def _strip(keyframes: Sequence[dict[str, Any]]) -> str:
    """Return the thumbnails as buttons; the page's program fills in the images."""
    if not keyframes:
        return ''
    buttons = ''.join(
        f'<li><button type="button" data-keyframe="{index}"><img alt="" width="112" '
        f'height="{round(112 * one["half"][1] / one["half"][0])}">'
        f'<span>{escape(one["after"])}</span></button></li>'
        for index, one in enumerate(keyframes))
    return ('<section><h2>Keyframes <small>choose one to see where it was taken</small></h2>'
            '<ol class="strip" tabindex="0" aria-label="Keyframes, in the order of the map">'
            f'{buttons}</ol>'
            '</section>')


def _plots(record: RunRecord, image_ns: int | None) -> str:
    columns = {name: np.array(values, float) for name, values in record.columns().items()}
    count = len(columns['stamp_ns'])
    if not count:
        return ''
    passed_ns = columns['stamp_ns'] - columns['stamp_ns'][0]
    if image_ns is not None:
        x, axis = 1.0 + passed_ns / image_ns, IMAGES
    elif count > 1 and (np.diff(passed_ns) >= 0.0).all() and passed_ns[-1] > 0.0:
        x, axis = passed_ns / 1e9, SECONDS
    else:
        x, axis = np.arange(count, dtype=float), FRAMES
    megabytes = 1e-6
    plots = [
        Plot('Confidence', '', [Line('mean of a keyframe', columns['confidence'])]),
        Plot('Latency', 'ms', [Line('whole', 1e3 * columns['latency_sec']),
                               Line('network', 1e3 * columns['inference_sec'])]),
        Plot('Memory of the network', 'tokens', [
            Line('used', columns['memory_tokens']), Line('capacity', columns['memory_capacity'])]),
        Plot('Bytes', 'MB', [
            Line('network and its memory', megabytes * columns['network_bytes']),
            Line('keyframes', megabytes * columns['keyframe_bytes'])]),
        Plot('Map', 'voxels', [Line('voxels', columns['voxels'])]),
        Plot('Scale', 'm per map unit', [
            Line('scale, ± its standard deviation', columns['scale'], columns['scale_deviation'])],
            'The map is not metric: no source gave its scale.'),
        Plot('Fragments and loops', '', [
            Line('fragments', columns['fragments']), Line('loops accepted', columns['loops']),
            Line('loops rejected', columns['loops_rejected'])], whole=True)]
    figures = ''.join(draw_plot(one, x, axis) for one in plots)
    heading = 'Over the images' if axis == IMAGES else 'Over time'
    return f'<section><h2>{heading}</h2><div class="plots">{figures}</div></section>'


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = ''.join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
                    for name, value in rows)
    return f'<div class="scroll"><table><caption>{escape(title)}</caption>{lines}</table></div>'


def _drawing(scene: MapScene, entry: dict[str, Any]) -> list[tuple[str, str]]:
    points = entry['points']
    metric = math.isfinite(scene.metres)
    step = max(points['step']) / 2 * (scene.metres if metric else 1.0)
    rounding = f'{1e3 * step:.3g} mm' if metric else f'{step:.3g} map units'
    return [('points drawn', f'{points["count"]:,} of {points["total"]:,}'),
            ('points rounded by at most', rounding),
            ('poses drawn', f'{len(entry["path"]):,} of {len(scene.positions):,}'),
            ('thumbnails', f'{len(entry["keyframes"])}')]


def _settings(settings: Settings) -> str:
    defaults = {one.name: one.default for one in all_settings()}
    used = all_settings(settings)
    changed = [one for one in used if one.default != defaults.get(one.name)]
    rows = [(one.name, f'{_shown(one)} (default: {json.dumps(defaults.get(one.name))})')
            for one in changed] or [('none', 'all settings have their defaults')]
    return ('<section class="tables">' + _table('Settings that were changed', rows)
            + '</section><details><summary>All settings</summary>'
            + _table('Settings', [(one.name, _shown(one)) for one in used]) + '</details>')


def _shown(setting: Setting) -> str:
    return json.dumps(setting.default)


def _json(value: object) -> str:
    """Return JSON that cannot end the script element it is in."""
    text = json.dumps(value, separators=(',', ':'), allow_nan=False)
    return text.replace('<', '\\u003c')
