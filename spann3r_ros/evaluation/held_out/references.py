# SPDX-License-Identifier: Apache-2.0
"""Reference results from a file, for comparison with new ones."""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .held_out_rooms import HeldOutConfig

# Settings that must be equal for two evaluations to be comparable.
COMPARED = ('rooms', 'seed', 'textures_seed', 'query_points', 'normal_points', 'varied')


@dataclass(frozen=True)
class Reference:
    """The name of the results and their columns per kind of sequence."""

    name: str = ''
    turns: dict[str, dict[str, float]] = field(default_factory=dict)


def read_reference(path: Path, config: HeldOutConfig) -> Reference:
    """Read a file that `evaluate --output` wrote.

    ValueError for another file, and for results on other rooms than those of `config`.
    """
    content = json.loads(path.read_text())
    try:
        check_same_rooms(content['config'], config, path)
        return Reference(content.get('name', content['checkpoint']),
                         {item['turn']: figures(item) for item in content['results']})
    except (KeyError, TypeError) as error:
        raise ValueError(f'reference: expected what --output wrote, in {path}') from error


def figures(result: dict[str, Any]) -> dict[str, float]:
    """Return the columns of one written `TurnResult`."""
    return result['network'] | result['network_poses'] | {'normals': result['normals']}


def check_same_rooms(measured: dict[str, Any], config: HeldOutConfig, path: Path) -> None:
    """Raise ValueError unless a file's configuration draws the same rooms."""
    for name in COMPARED:
        wanted = getattr(config, name)
        # Older files lack fields; they were measured with the default.
        got = measured.get(name, getattr(type(config), name))
        if got != wanted:
            raise ValueError(f'reference: expected results with {name} {wanted}, '
                             f'those in {path} have {got}')
