# SPDX-License-Identifier: Apache-2.0
"""The recorded form of what packages do with cases.

A case is a call without arguments that returns arrays by name. Its inputs are computed, not drawn,
so that every numpy makes the same ones.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
Cases = dict[str, Callable[[], Arrays]]

FOLDER = Path(__file__).parent / 'data'


def outcome(case: Callable[[], Arrays]) -> Arrays:
    """Return what a case does: its arrays, or the name of its error."""
    try:
        with np.errstate(all='ignore'):
            return case()
    except Exception as error:
        return {'error': np.array(type(error).__name__)}


def write_recording(package: str, outcomes: dict[str, Arrays], origin: dict[str, str]) -> None:
    """Write what the cases of a package gave, all arrays in one row of bytes."""
    index = {case: {name: [values.dtype.str, values.shape] for name, values in arrays.items()}
             for case, arrays in outcomes.items()}
    data = b''.join(values.tobytes() for arrays in outcomes.values() for values in arrays.values())
    np.savez_compressed(
        FOLDER / f'{package}.npz', index=np.array(json.dumps({'origin': origin, 'cases': index})),
        data=np.frombuffer(data, np.uint8))


def read_recording(package: str) -> dict[str, Arrays]:
    """Return what the genuine package gave, by case."""
    with np.load(FOLDER / f'{package}.npz') as file:
        index, data, at = json.loads(str(file['index']))['cases'], file['data'].tobytes(), 0
    outcomes: dict[str, Arrays] = {}
    for case, arrays in index.items():
        outcomes[case] = {}
        for name, (dtype, shape) in arrays.items():
            count = int(np.prod(shape))
            outcomes[case][name] = np.frombuffer(data, dtype, count, at).reshape(shape)
            at += outcomes[case][name].nbytes
    return outcomes
