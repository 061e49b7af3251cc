# SPDX-License-Identifier: Apache-2.0
"""The number of CPU threads follows the parameter, the user's environment, then the network."""
from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from spann3r_ros.networks.threads import set_threads, wait_without_spinning

SMALL, LARGE = 3_500_000, 650_000_000


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(('threads', 'environment', 'weights', 'expected'), [
    (0, None, SMALL, 1), (0, None, LARGE, 3), (0, '5', SMALL, 5), (0, '5', LARGE, 5),
    (0, '6,2', LARGE, 6), (0, 'many', SMALL, 1), (2, None, SMALL, 2), (2, '5', LARGE, 2)])
def test_parameter_precedes_environment_and_size(
        threads: int, environment: str | None, weights: int, expected: int,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 2, 5})
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if environment:
        monkeypatch.setenv('OMP_NUM_THREADS', environment)
    torch.set_num_threads(7)  # as an earlier network may have set it
    set_threads(threads, weights)
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize(('given', 'expected'), [
    ({}, 'passive'), ({'OMP_WAIT_POLICY': 'active'}, 'active'), ({'GOMP_SPINCOUNT': '9'}, None)])
def test_waiting_policy_of_the_user_is_kept(
        given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'):
        monkeypatch.setenv(name, '')  # so that what the function sets is undone at the end
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_without_spinning()
    assert os.environ.get('OMP_WAIT_POLICY') == expected
