# SPDX-License-Identifier: Apache-2.0
"""The rows of the device check: their file, rewritten after each row, and their tables."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten

from spann3r_ros.core.files import write_json
from spann3r_ros.evaluation.tables import format_table

# 'failed' fails the check; 'missed' is a goal that was not reached.
OUTCOMES = ('passed', 'failed', 'met', 'missed', 'measured')
Figure = float | int | str
# Longest remark in a table, in characters; the file has all of it.
REMARK = 90


@dataclass(frozen=True)
class Row:
    """One result of a part: what was looked at, how it came out, its figures by name.

    `trace`, which only the file has, is the traceback of an exception or the compiler's report.
    """

    part: str
    name: str
    outcome: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    detail: str = ''
    trace: str = ''

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f'outcome: expected one of {OUTCOMES}, got {self.outcome!r}')

    def __str__(self) -> str:
        figures = ', '.join(f'{name} {_text(value)}' for name, value in self.figures.items())
        return ' | '.join(filter(None, (f'{self.part}: {self.name}: {self.outcome}', figures,
                                        self.detail)))


@dataclass(frozen=True)
class PartTime:
    """How long a part took, and how long it may take, in seconds."""

    sec: float
    limit_sec: float


class Results:
    """What a check has found; its file is whole at any time."""

    def __init__(self, path: Path, facts: Mapping[str, str]) -> None:
        self.rows: list[Row] = []
        self.times: dict[str, PartTime] = {}
        self._path, self._facts = path, facts
        self._write()

    @property
    def failed(self) -> bool:
        """Return whether any row failed."""
        return any(row.outcome == 'failed' for row in self.rows)

    def add(self, row: Row) -> None:
        """Take a row, and write the file."""
        self.rows.append(row)
        self._write()

    def finish(self, part: str, time: PartTime) -> None:
        """Note a part's time, and write the file."""
        self.times[part] = time
        self._write()

    def tables(self, form: Callable[[Sequence[str], Sequence[Sequence[str]]], str] = format_table
               ) -> str:
        """Return one table a part, its figures in columns, then the parts' times."""
        texts = [', '.join(f'{name} {value}' for name, value in self._facts.items())]
        for part in dict.fromkeys(row.part for row in self.rows):
            rows = [row for row in self.rows if row.part == part]
            # Rows with other figures make another table.
            for names in dict.fromkeys(tuple(row.figures) for row in rows):
                header = [part, '', *(name.replace('_', ' ') for name in names), 'remark']
                cells = [[row.name, row.outcome, *map(_text, row.figures.values()),
                          shorten(row.detail, REMARK, placeholder=' ...')]
                         for row in rows if tuple(row.figures) == names]
                texts.append(form(header, cells))
        texts.append(form(['part', 'seconds', 'limit'], [
            [name, f'{time.sec:.1f}', f'{time.limit_sec:.0f}']
            for name, time in self.times.items()]))
        return '\n\n'.join(texts) + '\n'

    def _write(self) -> None:
        write_json(self._path, {
            **self._facts, 'parts': {name: asdict(time) for name, time in self.times.items()},
            'rows': [{**asdict(row), 'figures': {name: _plain(value) for name, value
                                                 in row.figures.items()}} for row in self.rows]})


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(cell.replace('|', '\\|') for cell in line) + ' |'
                     for line in lines)


def _text(value: Figure) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return f'{value:.3g}' if abs(value) < 1e3 else f'{value:.0f}'


def _plain(value: Figure) -> Figure | None:
    # JSON has no NaN.
    return None if isinstance(value, float) and not math.isfinite(value) else value
