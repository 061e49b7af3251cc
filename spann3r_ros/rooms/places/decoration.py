# SPDX-License-Identifier: Apache-2.0
"""Random looks of walls, floors and things, from the textures of a pack."""
from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from spann3r_ros.rooms.assets.asset_pack import AssetPack

from .surfaces import Look


@dataclass(frozen=True)
class Decorator:
    """Draws looks; the bank holds photographs, furniture, patterns and one white texture."""

    photographs: int
    patterns: range
    white: int
    rng: np.random.Generator

    @classmethod
    def of(cls, pack: AssetPack, patterns: int, rng: np.random.Generator) -> Decorator:
        """Return a decorator for a bank of a pack's textures, then patterns, then white."""
        first = len(pack.textures)
        return cls(pack.photographs, range(first, first + patterns), first + patterns, rng)

    def photograph(self) -> int:
        """Return any photograph's texture."""
        return int(self.rng.integers(self.photographs))

    def pattern(self) -> int:
        """Return any pattern's texture."""
        return int(self.rng.choice(self.patterns))

    def paint(self, low: float = 0.35, high: float = 0.95, colourful: float = 0.35) -> Look:
        """Return a plain colour of a lightness; most are pale, a few saturated."""
        saturation = colourful * self.rng.random() ** 2
        tint = colorsys.hsv_to_rgb(self.rng.random(), saturation, self.rng.uniform(low, high))
        return Look(self.white, tint, gloss=self._gloss(0.2))

    def wall(self) -> Look:
        """Return paint on most walls, wallpaper or bricks on some, a photograph on a few."""
        kind = self.rng.random()
        if kind < 0.6:
            return self.paint(0.45, 0.95)
        tile = float(np.exp(self.rng.uniform(np.log(0.4), np.log(3.0))))
        texture = self.pattern() if kind < 0.9 else self.photograph()
        return Look(texture, self.shade(), tile, self._gloss(0.1))

    def floor(self) -> Look:
        """Return a floor: a pattern, a photograph or paint; a third of the floors shine."""
        kind = self.rng.random()
        if kind < 0.25:
            plain = self.paint(0.2, 0.7)
            return Look(plain.texture, plain.tint, gloss=self._gloss(0.3))
        tile = float(np.exp(self.rng.uniform(np.log(0.4), np.log(2.5))))
        texture = self.pattern() if kind < 0.7 else self.photograph()
        return Look(texture, self.shade(), tile, self._gloss(0.3))

    def thing(self) -> Look:
        """Return the look of a small thing: printed, patterned or plain."""
        kind = self.rng.random()
        if kind < 0.35:
            return self.paint(0.05, 0.95, 1.0)
        texture = self.photograph() if kind < 0.75 else self.pattern()
        return Look(texture, self.shade(), gloss=self._gloss(0.2))

    def picture(self) -> Look:
        """Return a picture that covers its surface once."""
        return Look(self.photograph(), gloss=self._gloss(0.3))

    def shade(self) -> tuple[float, float, float]:
        """Return a tint near white."""
        grey = self.rng.uniform(0.55, 1.0)
        return tuple((grey * self.rng.uniform(0.9, 1.0, 3)).tolist())

    def _gloss(self, share: float) -> float:
        return float(self.rng.uniform(0.1, 0.6)) if self.rng.random() < share else 0.0
