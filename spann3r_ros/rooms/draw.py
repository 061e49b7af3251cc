# SPDX-License-Identifier: Apache-2.0
"""Reproducible random numbers."""

import torch
from torch import Tensor


class Draw:
    """A seeded source of random tensors on the CPU."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw float32 numbers between two bounds."""
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        """Draw float32 numbers of mean 0 and deviation 1."""
        return torch.randn(*shape, generator=self.generator)

    def integers(self, bound: int, *shape: int) -> Tensor:
        """Draw int64 numbers from 0 to bound - 1."""
        return torch.randint(bound, shape, generator=self.generator)
