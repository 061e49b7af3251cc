# SPDX-License-Identifier: Apache-2.0
"""`spann3r check`: does the package compute on this device what it should, and how fast."""
from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import spann3r_ros

if TYPE_CHECKING:
    from spann3r_ros.evaluation.device_check.check_rows import Row

SUMMARY = 'check numbers, speed, mapping and lack of memory on a device'
# Without the heavy imports of the parts; a test compares the two.
PART_NAMES = ('recorded', 'speed', 'deviation', 'mapper', 'out-of-memory', 'compiled')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--device', choices=('cuda', 'cpu'), required=True,
                        help='cpu rehearses each part with small networks')
    parser.add_argument('--output', type=Path, required=True,
                        help='JSON file, rewritten after each result')
    parser.add_argument('--table', type=Path, help='Markdown file to write the tables to')
    parser.add_argument('--parts', nargs='+', choices=PART_NAMES, default=PART_NAMES,
                        help='only these parts (default: all)')
    parser.add_argument('--recordings', type=Path, help=(
        'folder of recorded numbers (default: SPANN3R_GOLDENS, or test/parity/data of the '
        'source tree)'))
    parser.add_argument('--quick', action='store_true',
                        help='fewer recordings, networks and frames')


def run(args: argparse.Namespace) -> int:
    """Run the parts, print each row and the tables, write the files."""
    from spann3r_ros.core.files import write_files
    from spann3r_ros.evaluation.device_check.check_parts import PARTS
    from spann3r_ros.evaluation.device_check.check_rows import Results, markdown_table
    from spann3r_ros.evaluation.device_check.part_process import CheckSettings, run_parts
    from spann3r_ros.networks.devices import resolve_device
    resolve_device(args.device)
    settings = CheckSettings(args.device, args.recordings or default_recordings(), args.quick)
    for path in filter(None, (args.output, args.table)):
        path.parent.mkdir(parents=True, exist_ok=True)
    results = Results(args.output, facts(args.device))
    # `timeout` ends this process alone: the part in progress has to end with it.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        run_parts([PARTS[name] for name in args.parts], settings, results, show)
    finally:
        signal.signal(signal.SIGTERM, before)
        print(f'\n{results.tables()}')
        if args.table:
            write_files({args.table: results.tables(markdown_table).encode()})
    print(f'wrote {args.output}')
    return int(results.failed)


def show(row: Row) -> None:
    """Print a row at once, also into a pipe."""
    print(row, flush=True)


def default_recordings() -> Path | None:
    """Return the folder that SPANN3R_GOLDENS names, or that of the source tree; None: neither."""
    named = os.environ.get('SPANN3R_GOLDENS')
    if named:
        return Path(named)
    folder = Path(spann3r_ros.__file__).parents[1] / 'test' / 'parity' / 'data'
    return folder if folder.is_dir() else None


def facts(device: str) -> dict[str, str]:
    """Return date, machine and versions."""
    import numpy as np
    import torch
    found = {'date': datetime.now(timezone.utc).isoformat(timespec='seconds'), 'device': device,
             'processor': platform.processor() or platform.machine(),
             'cores': str(os.cpu_count()), 'python': platform.python_version(),
             'torch': torch.__version__, 'numpy': np.__version__}
    if device == 'cuda':
        found |= {'cuda': str(torch.version.cuda), 'card and driver': card()}
    return found


def card() -> str:
    """Return the names of the cards and the versions of their drivers.

    By a process of its own: in this one CUDA would take memory from the parts.
    """
    try:
        return '; '.join(subprocess.run(
            ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader'],
            capture_output=True, text=True, check=True, timeout=20).stdout.splitlines())
    except (OSError, subprocess.SubprocessError) as error:
        return f'unknown: {error}'
