# SPDX-License-Identifier: Apache-2.0
"""`spann3r map info`: what a saved map is, after a check of all its files."""
from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SUMMARY = 'check the files of a saved map and show what it has'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('map', type=Path,
                        help='the directory of a map, or the folder that has it: map_directory of '
                             'the node, the output of a replay')
    parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    """Print the facts; return the exit status. Raises ValueError and OSError for a bad map."""
    from spann3r_ros.mapping.storage.map_summary import summarise_map
    summary = summarise_map(args.map)
    if args.json:
        print(json.dumps(summary, indent=2))
        return 0
    try:
        facts = _facts(summary)
    # Of the manifest only the files are checked by a load.
    except (KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f'{summary["directory"]}/manifest.json: expected the numbers of a map: '
                         f'{type(error).__name__}: {error}') from error
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f'{name:<{width}}  {fact}')
    return 0


def _facts(summary: dict[str, Any]) -> dict[str, str]:
    unit = 'm' if summary['scale']['metric'] else 'units'
    scale, counts, extent = summary['scale'], summary['counts'], summary['extent']
    sides = ' x '.join(f'{high - low:.2f}' for low, high in zip(*extent, strict=True))
    return {
        'map': f'{summary["directory"]}, all {len(summary["files"])} files are whole',
        'made by': f'version {summary["version"]}, network {summary["network"]}, weights '
                   f'{summary["identity"]}',
        'view': f'{summary["settings"]["field_of_view"]} of images of '
                f'{_size(summary["settings"]["image_size"])}, seen as '
                f'{_size(summary["settings"]["input_size"])}',
        'scale': (f'metres, by {scale["source"]}, +- {100 * scale["deviation"]:.1f} %'
                  if scale['metric'] else 'not known'),
        'extent': f'{sides} {unit}', 'path': f'{summary["path_length"]:.2f} {unit}, '
                                             f'{counts["poses"]} poses',
        'time': ' to '.join(map(_time, summary['stamps_ns'] or [])),
        'keyframes': f'{counts["keyframes"]}, {counts["kept"]} of them kept',
        'voxels': f'{counts["voxels"]} of {summary["voxel_size"]:.4g} {unit}, '
                  f'{counts["points"]} points',
        'loops': str(counts['loops']),
        **{f'fragment {one["id"]}': f'{one["connection"]}: {one["keyframes"]} keyframes, '
                                    f'{one["voxels"]} voxels' for one in summary['fragments']},
        **{name: f'{one["bytes"] / 1e6:.2f} MB' for name, one in summary['files'].items()}}


def _size(size: list[int]) -> str:
    return f'{size[1]}x{size[0]}'


def _time(stamp_ns: int) -> str:
    return datetime.fromtimestamp(stamp_ns // 10**9, timezone.utc).strftime('%Y-%m-%d %H:%M:%S')
