# SPDX-License-Identifier: Apache-2.0
"""Comparison of the scenes of a mean with those of the paper's mean."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .published import SCENES

# MVSNet's test scans. The paper evaluates all test scans and does not list them.
DTU_SCANS = (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114,
             118)
SCENE_NAMES: dict[str, tuple[str, ...]] = {
    **{layout: tuple(scenes) for layout, scenes in SCENES.items()},
    'dtu': tuple(f'scan{number}' for number in DTU_SCANS)}
NOUNS = {'7scenes': 'sequences', 'nrgbd': 'scenes', 'dtu': 'scans'}


@dataclass(frozen=True)
class Coverage:
    """The scenes of `count` results: the paper's without the `missing` ones, and `others`.

    `whole` is the number of the paper's scenes, `noun` the word of the data set for them.
    """

    count: int
    missing: tuple[str, ...]
    others: tuple[str, ...]
    whole: int
    noun: str

    @property
    def label(self) -> str:
        """Return a label of the mean; without a total it is over the whole set."""
        present = self.whole - len(self.missing)
        text = f'mean of {self.count}'
        if self.others:
            kinds = 'other' if len(self.others) == 1 else 'others'
            return f'{text}: {present} of {self.whole} {self.noun}, {len(self.others)} {kinds}'
        if not self.missing:
            return text
        return f'{text} of {self.whole}' if self.count == present \
            else f'{text}: {present} of {self.whole} {self.noun}'

    @property
    def remarks(self) -> list[str]:
        """Return sentences that name the differences from the scenes of the paper's mean."""
        remarks = []
        if self.missing:
            remarks.append(f"INCOMPLETE: the paper's means are over {self.whole} {self.noun}; "
                           f'missing here: {", ".join(self.missing)}.')
        if self.others:
            remarks.append("MIXED: this mean is also over what the paper's is not: "
                           f'{", ".join(self.others)}.')
        return remarks


def cover(layout: str, names: Iterable[str]) -> Coverage | None:
    """Compare the names of results with the paper's scenes; None for a layout it does not use."""
    if layout not in SCENE_NAMES:
        return None
    names, paper = list(names), SCENE_NAMES[layout]
    return Coverage(len(names), tuple(name for name in paper if name not in names),
                    tuple(sorted(set(names).difference(paper))), len(paper), NOUNS[layout])
