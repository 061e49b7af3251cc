# SPDX-License-Identifier: Apache-2.0
"""What the importable packages do, be they stand-ins or genuine, is what the genuine ones did."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cloud_cases import cloud_cases
from image_cases import image_cases
from recordings import Arrays, outcome, read_recording
from rotation_cases import rotation_cases

CASES = {'cv_bridge': image_cases, 'sensor_msgs_py': cloud_cases,
         'tf_transformations': rotation_cases}


@pytest.fixture(scope='module')
def recorded() -> dict[str, dict[str, Arrays]]:
    return {package: read_recording(package) for package in CASES}


def every_case() -> Iterator[pytest.param]:
    for package, cases in CASES.items():
        for name, case in cases().items():
            yield pytest.param(package, name, case, id=f'{package}: {name}')


@pytest.mark.parametrize(('package', 'name', 'case'), list(every_case()))
def test_outcome_is_that_of_the_genuine_package(
        package: str, name: str, case: Callable[[], Arrays],
        recorded: dict[str, dict[str, Arrays]]) -> None:
    expected, found = recorded[package][name], outcome(case)
    assert found.keys() == expected.keys(), (found, expected)
    for key, values in expected.items():
        other = found[key]
        assert (other.dtype, other.shape) == (values.dtype, values.shape), key
        if package == 'tf_transformations' and values.dtype.kind == 'f':
            # LAPACK's rounding is its own.
            np.testing.assert_allclose(other, values, rtol=1e-12, atol=1e-14, err_msg=key)
        else:
            np.testing.assert_array_equal(other, values, err_msg=key)


@pytest.mark.parametrize('package', CASES)
def test_every_recording_is_asked_for(
        package: str, recorded: dict[str, dict[str, Arrays]]) -> None:
    assert set(recorded[package]) == set(CASES[package]())
