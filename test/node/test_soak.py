# SPDX-License-Identifier: Apache-2.0
"""A short soak: what `make soak` does for a quarter of an hour."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / 'benchmarks' / 'soak.py'


def test_memory_map_and_accounts_stay_within_their_bounds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), '--frames', '160', '--output', str(tmp_path / 'soak.json')],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'stayed within their bounds' in done.stdout
    assert (tmp_path / 'soak.json').is_file()
