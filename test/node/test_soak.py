# SPDX-License-Identifier: Apache-2.0
"""Short runs of what `make soak` and `make cycles` do for minutes."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def test_memory_map_and_accounts_stay_within_their_bounds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / 'soak.py'), '--frames', '160',
         '--output', str(tmp_path / 'soak.json')],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'stayed within their bounds' in done.stdout
    assert (tmp_path / 'soak.json').is_file()


def test_cycles_and_loads_leave_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / 'cycles.py'), '--cycles', '5', '--loads', '3'],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'nothing is left behind' in done.stdout
