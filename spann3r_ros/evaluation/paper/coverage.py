# SPDX-License-Identifier: Apache-2.0
"""Whether a mean is over the scenes that the paper's mean is over."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .published import SCENES

# What MVSNet tests on. The paper evaluates all test scans and lists none.
DTU_SCANS = (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114,
             118)
SCENE_NAMES: dict[str, tuple[str, ...]] = {
    **{layout: tuple(scenes) for layout, scenes in SCENES.items()},
    'dtu': tuple(f'scan{number}' for number in DTU_SCANS)}
NOUNS = {'7scenes': 'sequences', 'nrgbd': 'scenes', 'dtu': 'scans'}


@dataclass(frozen=True)
class Coverage:
    """What `count` results are of: the paper's scenes without the `missing`, and `others`.

    `whole` is the number of the paper's scenes, `noun` what the data set calls them.
    """

    count: int
    missing: tuple[str, ...]
    others: tuple[str, ...]
    whole: int
    noun: str

    @property
    def label(self) -> str:
        """Return what the mean is to be called; a number alone stands for the whole set."""
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
        """Return sentences that name what sets the mean apart from the paper's."""
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
