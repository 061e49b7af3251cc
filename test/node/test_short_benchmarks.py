# SPDX-License-Identifier: Apache-2.0
"""Shortened forms of benchmarks that need a running node."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import DEADLINE_SEC

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def run(script: str, *words: str) -> str:
    done = subprocess.run([sys.executable, BENCHMARKS / script, *words], capture_output=True,
                          text=True, timeout=DEADLINE_SEC)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_bag_that_starts_with_the_node_loses_no_image() -> None:
    """The shortened form of `make bench-bag-launch`."""
    row = run('bag_tries.py', '--tries', '1', '--busy', '0', '--modes', 'replay').splitlines()[-1]
    assert row.split() == ['replay', '1', '60', '60', '60']


def test_large_images_are_received_with_the_profile() -> None:
    """The shortened form of `make bench-large-images`."""
    row = run('large_images.py', '--quick', '--seconds', '2').splitlines()[-1]
    received = row.split()[-3]
    assert received.endswith('%') and float(received[:-1]) > 0.0, row
