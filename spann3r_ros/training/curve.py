# SPDX-License-Identifier: Apache-2.0
"""The curve of a run: a line of CSV for every step."""
from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

FIELDS = ('step', 'frames', 'seconds', 'length', 'loss', 'point_error', 'last_error',
          'attention_loss', 'gradient_norm', 'lr_scale')


def append(path: Path, row: Mapping[str, float]) -> None:
    """Write the line of one step, below a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow({key: row[key] for key in FIELDS})


def cut(path: Path, last_step: int) -> None:
    """Drop the lines after a step, and what a killed process left half written."""
    if not path.is_file():
        return
    header, *lines = path.read_text().splitlines(keepends=True) or ['']
    kept = [line for line in lines
            if line.endswith('\n') and int(line.split(',')[0]) <= last_step]
    if not header.endswith('\n'):
        path.unlink()
        return
    path.with_suffix('.part').write_text(''.join([header, *kept]))
    os.replace(path.with_suffix('.part'), path)
