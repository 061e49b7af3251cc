# SPDX-License-Identifier: Apache-2.0
"""What the tests ask of tf_transformations."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import tf_transformations as tf
from recordings import Arrays, Cases


def returned(function: Callable, *arguments: object) -> Arrays:
    return {'value': np.asarray(function(*arguments), float)}


def quaternions() -> dict[str, tuple[float, ...]]:
    found = {'identity': (0.0, 0.0, 0.0, 1.0), 'half turn': (0.0, 1.0, 0.0, 0.0),
             'long': (1.0, -2.0, 3.0, 4.0), 'short': (1e-6, 2e-6, -3e-6, 1e-6),
             'tiny': (1e-9, 0.0, 0.0, 1e-9), 'zero': (0.0, 0.0, 0.0, 0.0),
             'not a number': (0.0, np.nan, 0.0, 1.0)}
    for index in range(12):
        values = np.sin(np.arange(4) * 1.7 + index * 2.3)
        found[f'unit {index}'] = tuple(values / np.linalg.norm(values))
    return found


def rotation_cases() -> Cases:
    cases: Cases = {}
    named = quaternions()
    units = [value for name, value in named.items() if name.startswith('unit')]
    for name, value in named.items():
        cases[f'matrix of {name}'] = partial(returned, tf.quaternion_matrix, value)
        cases[f'angles of {name}'] = partial(returned, tf.euler_from_quaternion, value)
        cases[f'inverse of {name}'] = partial(returned, tf.quaternion_inverse, value)
        cases[f'product with {name}'] = partial(
            returned, tf.quaternion_multiply, value, named['unit 3'])
    for index, unit in enumerate(units):
        matrix = np.eye(4)
        # Rodrigues' formula by OpenCV: not by what is tested.
        axis = np.array(unit[:3])
        matrix[:3, :3] = cv2.Rodrigues(3.0 * index / 12 * axis / np.linalg.norm(axis))[0]
        matrix[:3, 3] = 10.0 * np.array(unit[1:])
        scaled = matrix.copy()
        scaled[:3, :3] *= 1.0 + index
        cases[f'quaternion of matrix {index}'] = partial(
            returned, tf.quaternion_from_matrix, matrix)
        cases[f'quaternion of scaled matrix {index}'] = partial(
            returned, tf.quaternion_from_matrix, scaled)
        cases[f'translation of matrix {index}'] = partial(
            returned, tf.translation_from_matrix, matrix)
        cases[f'inverse of matrix {index}'] = partial(returned, tf.inverse_matrix, scaled)
        cases[f'angles of matrix {index}'] = partial(returned, tf.euler_from_matrix, matrix)
        cases[f'product of matrices {index}'] = partial(
            returned, tf.concatenate_matrices, matrix, scaled, matrix)
    for axes in ('sxyz', 'szyx', 'rzyx', 'rxyz', 'szxz', 'ryzy'):
        for angles in ((0.1, -0.2, 0.3), (3.0, 1.5, -2.0), (0.0, 0.5 * np.pi, 1.0)):
            label = f'{angles} about {axes}'
            cases[f'quaternion of {label}'] = partial(
                returned, tf.quaternion_from_euler, *angles, axes)
            cases[f'matrix of {label}'] = partial(returned, tf.euler_matrix, *angles, axes)
    return cases | {
        'translation': partial(returned, tf.translation_matrix, (1.0, -2.0, 3.5)),
        'matrix of three numbers': partial(returned, tf.quaternion_matrix, (0.0, 0.0, 1.0)),
        'identity': partial(returned, tf.identity_matrix),
        'product of none': partial(returned, tf.concatenate_matrices),
        'conjugate': partial(returned, tf.quaternion_conjugate, named['long']),
        'unknown axes': partial(returned, tf.quaternion_from_euler, 0.1, 0.2, 0.3, 'abcd'),
        'singular matrix': partial(returned, tf.quaternion_from_matrix, np.zeros((4, 4))),
        'inverse of singular matrix': partial(returned, tf.inverse_matrix, np.zeros((4, 4))),
    }
