# SPDX-License-Identifier: Apache-2.0
"""The training curve of a run: one line of CSV per step."""
from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

FIELDS = ('step', 'frames', 'seconds', 'length', 'loss', 'point_error', 'last_error',
          'attention_loss', 'gradient_norm', 'lr_scale')


def append(path: Path, row: Mapping[str, float]) -> None:
    """Append the line of one step; a new file gets a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow({key: row[key] for key in FIELDS})


def cut(path: Path, last_step: int) -> None:
    """Remove the lines after a step, and a line that a killed process left incomplete."""
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
