# SPDX-License-Identifier: Apache-2.0
"""Plots over time as SVG, whose colours come from the style sheet of the page."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 34
TICKS = 4
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Line:
    """One line of a plot: `values` [n], NaN where there is none, and the half width of a band."""

    label: str
    values: Sequence[float]
    band: Sequence[float] | None = None


@dataclass(frozen=True)
class Plot:
    """A plot of lines over one axis `x` [n]; `missing` is shown if no line has a value.

    With `whole` the values are integers.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    missing: str = 'no values'
    whole: bool = False


def draw_plot(plot: Plot, x: np.ndarray, x_label: str) -> str:
    """Return a plot as HTML: a figure with a caption, a legend and an SVG image."""
    values = [np.asarray(line.values, float) for line in plot.lines]
    bands = [np.zeros_like(value) if line.band is None else np.asarray(line.band, float)
             for line, value in zip(plot.lines, values, strict=True)]
    finite = np.concatenate([np.zeros(0)] + [
        side[np.isfinite(side)] for value, band in zip(values, bands, strict=True)
        for side in (value - band, value + band)])
    unit = f' <span class="unit">{escape(plot.unit)}</span>' if plot.unit else ''
    heading = f'<figcaption><h3>{escape(plot.title)}{unit}</h3>{_legend(plot)}</figcaption>'
    if not len(finite):
        return (f'<figure class="plot">{heading}<p class="missing">{escape(plot.missing)}</p>'
                '</figure>')
    y_ticks = nice_ticks(min(float(finite.min()), 0.0), float(finite.max()),
                         least=float(plot.whole))
    x_ticks = nice_ticks(float(x[0]), float(x[-1]), inside=True)
    axes = _Axes(float(x[0]), float(x[-1]), y_ticks[0], y_ticks[-1])
    parts = [_grid(axes, x_ticks, y_ticks, x_label)]
    for index, (value, band) in enumerate(zip(values, bands, strict=True), start=1):
        parts += [f'<path class="band s{index}" d="{axes.band(x, value, band)}"/>'
                  ] if plot.lines[index - 1].band is not None else []
        parts.append(f'<path class="line s{index}" d="{axes.line(x, value)}"/>')
    return (f'<figure class="plot">{heading}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(_summary(plot, values, x_label))}">{"".join(parts)}</svg>'
            '</figure>')


def nice_ticks(low: float, high: float, inside: bool = False,
               least: float = 0.0) -> list[float]:
    """Return round numbers that span low..high, `least` or more apart; `inside`: between them."""
    span = high - low
    if not span > 0.0:
        span = abs(high) or 1.0
        high = low + span
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(power * one for one in STEPS if power * one * TICKS >= span * (1 - 1e-9))
    step = max(step, least)
    first = math.ceil(low / step - 1e-9) if inside else math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) if inside else math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + (not inside)) + 1)]


@dataclass(frozen=True)
class _Axes:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: np.ndarray | float) -> np.ndarray | float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: np.ndarray | float) -> np.ndarray | float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def line(self, x: np.ndarray, y: np.ndarray) -> str:
        """Return a line, interrupted where a value is missing; a point alone is a short stroke."""
        words, drawing = [], False
        for column, row in zip(self.x(x), self.y(y), strict=True):
            if not math.isfinite(row):
                drawing = False
                continue
            words.append(f'{"L" if drawing else "M"}{column:.1f} {row:.1f}')
            if not drawing:
                words.append('h.1')
            drawing = True
        return ''.join(words)

    def band(self, x: np.ndarray, y: np.ndarray, width: np.ndarray) -> str:
        known = np.isfinite(y) & np.isfinite(width)
        columns = self.x(x[known])
        upper, lower = self.y(y[known] + width[known]), self.y(y[known] - width[known])
        corners = [*zip(columns, upper, strict=True),
                   *zip(columns[::-1], lower[::-1], strict=True)]
        return 'M' + 'L'.join(f'{column:.1f} {row:.1f}' for column, row in corners) + 'Z'


def _grid(axes: _Axes, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> str:
    parts = []
    for tick in y_ticks:
        row = axes.y(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {row:.1f}H{WIDTH - RIGHT}"/>'
                     f'<text x="{LEFT - 8}" y="{row + 4:.1f}" class="end">{_number(tick)}</text>')
    for tick in x_ticks:
        column = axes.x(tick)
        parts.append(f'<path class="grid" d="M{column:.1f} {HEIGHT - BOTTOM}v4"/>'
                     f'<text x="{column:.1f}" y="{HEIGHT - BOTTOM + 17}" class="middle">'
                     f'{_number(tick)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" class="end">{escape(x_label)}'
                 '</text>')
    return ''.join(parts)


def _legend(plot: Plot) -> str:
    if len(plot.lines) < 2:
        return ''
    return '<ul class="legend">' + ''.join(
        f'<li class="s{index}">{escape(line.label)}</li>'
        for index, line in enumerate(plot.lines, start=1)) + '</ul>'


def _summary(plot: Plot, values: Sequence[np.ndarray], x_label: str) -> str:
    texts = []
    for line, value in zip(plot.lines, values, strict=True):
        known = value[np.isfinite(value)]
        if len(known):
            texts.append(f'{line.label}: {_number(known.min())} to {_number(known.max())}, '
                         f'last {_number(known[-1])} {plot.unit}'.rstrip())
    return f'{plot.title} over {x_label}. ' + '; '.join(texts)


def _number(value: float) -> str:
    magnitude = abs(value)
    for limit, suffix in ((1e9, 'G'), (1e6, 'M'), (1e4, 'k')):
        if magnitude >= limit:
            return f'{value / min(limit, 1e3 if suffix == "k" else limit):.4g}{suffix}'
    return f'{value:.4g}'
