# SPDX-License-Identifier: Apache-2.0
"""Plain-text tables."""
from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns with a header: the first left-aligned, the others right-aligned."""
    lines = [list(header), *map(list, rows)]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f'rows: expected {len(header)} cells each, '
                         f'got {sorted({len(line) for line in lines})}')
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def align(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return '  '.join(cells).rstrip()

    rule = '  '.join('-' * width for width in widths)
    return '\n'.join([align(lines[0]), rule, *map(align, lines[1:])])
