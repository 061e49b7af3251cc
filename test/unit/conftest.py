# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests without ROS."""
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spann3r_ros.networks.spann3r.fast.inference import multiplies_in_eight_bits


@pytest.fixture
def eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let int8 run where sums of 8-bit products are cut at 16 bits: AVX-512 without VNNI."""
    def product(left: Tensor, right: Tensor) -> Tensor:
        return left.int() @ right.int()

    if not multiplies_in_eight_bits():
        monkeypatch.setattr(torch, '_int_mm', product)
