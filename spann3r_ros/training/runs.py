# SPDX-License-Identifier: Apache-2.0
"""The named training runs: JSON files in `models/training`.

`NN_NAME.json` is run NN of the chain that made the bundled model, each of which begins with the
weights that the one before it released; `NAME.json` is a run for itself. A file has a `summary`,
the `settings` of a `TrainingConfig` that differ from its defaults and, where they apply,
`mean_with`, an earlier run of the chain whose release is averaged with this one's,
`former_name`, and `own_sizes`: the network has the sizes in `settings`, and not those of the
weights that the run begins with.
"""
from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spann3r_ros import share_directory

from .training_config import TrainingConfig

log = logging.getLogger(__name__)

FILE_NAME = re.compile(r'(?:(\d\d)_)?([a-z0-9][a-z0-9_.-]*)\.json')
REQUIRED = {'summary': str, 'settings': dict}
OPTIONAL = {'mean_with': str, 'former_name': str, 'own_sizes': bool}


@dataclass(frozen=True)
class Run:
    """A named training run.

    `position` counts the runs of the chain from 1; None: the run is not in the chain.
    `former_name` is accepted for one release.
    """

    path: Path
    name: str
    position: int | None
    summary: str
    settings: Mapping[str, Any]
    mean_with: str | None = None
    former_name: str | None = None
    own_sizes: bool = False

    @cached_property
    def config(self) -> TrainingConfig:
        """Return the settings; ValueError, with the file's path, for one that does not fit."""
        try:
            return TrainingConfig.from_dict(dict(self.settings))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{self.path}: {error}') from error


def read_runs(folder: Path | None = None) -> dict[str, Run]:
    """Return the runs of a folder by name, those of the chain first and in order.

    None: of `models/training`. ValueError for a bad file, a name that occurs twice, a number of
    the chain that is missing, and `mean_with` that is not an earlier run of the chain.
    """
    folder = share_directory() / 'models' / 'training' if folder is None else folder
    runs = [_read(path) for path in sorted(folder.glob('*.json'))]
    if not runs:
        raise ValueError(f'{folder}: expected files NAME.json of training runs, found none')
    _check_names(runs)
    chain = chain_of(runs)
    for number, run in enumerate(chain, start=1):
        if run.position != number:
            raise ValueError(f'{run.path}: expected the number {number:02d}, as the run before it '
                             f'is number {number - 1:02d}')
    for run in runs:
        earlier = [other.name for other in chain[:(run.position or 1) - 1]]
        if run.mean_with is not None and run.mean_with not in earlier:
            raise ValueError(f'{run.path}: mean_with: expected an earlier run of the chain, '
                             f'{earlier}, got {run.mean_with!r}')
    return {run.name: run for run in (*chain, *(run for run in runs if run.position is None))}


def chain_of(runs: Iterable[Run]) -> list[Run]:
    """Return the runs of the chain, in order."""
    return sorted((run for run in runs if run.position is not None),
                  key=lambda run: run.position)


def find_run(runs: Mapping[str, Run], name: str) -> Run:
    """Return the run of a name; a former name only warns, ValueError for an unknown one."""
    if name in runs:
        return runs[name]
    for run in runs.values():
        if run.former_name == name:
            log.warning('run %r is now called %r; the former name will be removed', name, run.name)
            return run
    raise ValueError(f'run: expected one of {list(runs)}, got {name!r}')


def _read(path: Path) -> Run:
    match = FILE_NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f'{path}: expected a name like 01_name.json or name.json, of small '
                         'letters, digits, _, . and -')
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path}: expected JSON: {error}') from error
    if not isinstance(values, dict):
        raise ValueError(f'{path}: expected a JSON object, got {type(values).__name__}')
    kinds = REQUIRED | OPTIONAL
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        raise ValueError(f'{path}: expected the fields {list(kinds)}, got {unknown[0]!r}')
    missing = sorted(set(REQUIRED) - set(values))
    if missing:
        raise ValueError(f'{path}: expected the field {missing[0]!r}')
    for name, value in values.items():
        if not isinstance(value, kinds[name]):
            raise ValueError(f'{path}: {name}: expected a {kinds[name].__name__}, got {value!r}')
    position = None if match[1] is None else int(match[1])
    return Run(path, match[2], position, **{'own_sizes': position is not None, **values})


def _check_names(runs: list[Run]) -> None:
    """Raise ValueError for a name, former ones included, that two runs have."""
    owners: dict[str, Run] = {}
    for run in runs:
        for name in filter(None, (run.name, run.former_name)):
            if name in owners:
                raise ValueError(f'{run.path}: expected a name of its own, {name!r} is also a '
                                 f'name of {owners[name].path}')
            owners[name] = run
