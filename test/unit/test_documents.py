# SPDX-License-Identifier: Apache-2.0
"""The documents name files, make targets, commands, options and parameters that exist."""
from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from test_layering import BELOW

from spann3r_ros.cli.main import build_parser
from spann3r_ros.pipeline.node_settings import all_settings
from spann3r_ros.tools.launch_plan import arguments

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), ROOT / 'benchmarks' / 'README.md',
             ROOT / 'models' / 'rooms_small.md']
# Where a command that is shown with options ends: at the next word that is no part of it.
COMMAND = re.compile(r'\bspann3r(?: |-)([a-z][a-z-]*)((?:(?:\\\n)|[^`\n|])*)')
SHORT = {'eval': 'benchmark', 'train': 'train'}


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def anchors(path: Path) -> set[str]:
    return {slug(title) for title in re.findall(r'^#+ (.+)$', path.read_text(), re.MULTILINE)}


def commands() -> dict[str, set[str]]:
    """Return the options of every command of `spann3r`, with those of its own commands."""
    choices, = (action.choices for action in build_parser()._actions
                if isinstance(action, argparse._SubParsersAction))
    return {name: options(parser) for name, parser in choices.items()}


def options(parser: argparse.ArgumentParser) -> set[str]:
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(options, action.choices.values()))
    return found


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    lost = []
    for target in re.findall(r'\]\(([^)\s]+)\)', path.read_text()):
        if target.startswith('http'):
            continue
        name, _, anchor = target.partition('#')
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    assert set(re.findall(r'(?:^|`)make ([a-z-]+)', path.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_their_options_exist(path: Path) -> None:
    known, lost = commands(), []
    for name, rest in COMMAND.findall(path.read_text()):
        name = SHORT.get(name, name)
        if name not in known:
            lost.append(name)
            continue
        lost += [f'{name} {option}' for option in re.findall(r'(?<![\w-])--[a-z-]+', rest)
                 if option not in known[name] | {'--help'}]
    assert lost == []


def test_architecture_has_a_row_for_every_layer() -> None:
    rows = re.findall(r'^\| `(\w+)/` \|', (ROOT / 'ARCHITECTURE.md').read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(BELOW)


def test_parameters_in_launch_commands_are_launch_arguments() -> None:
    names = set(arguments(ROOT))
    shown = {name for path in DOCUMENTS for name in re.findall(r'\b(\w+):=', path.read_text())}
    assert shown and shown <= names


def test_parameters_of_replay_that_are_shown_exist() -> None:
    names = {item.name for item in all_settings()}
    shown = {name for path in DOCUMENTS for name in re.findall(r'--set ([\w.]+)=',
                                                               path.read_text())}
    assert shown and shown - {'NAME'} <= names
