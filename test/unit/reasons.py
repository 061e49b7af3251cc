# SPDX-License-Identifier: Apache-2.0
"""The texts by which node and replay refuse input or warn, collected from the source.

A text is what is written in the code up to `, got`, a semicolon or a bracket; `…` stands for what
is filled in.
"""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / 'spann3r_ros'
FOLDERS = ('core', 'networks', 'mapping', 'pipeline', 'datasets', 'reconstruction', 'ros', 'tools',
           'viewer')
# Training and the checks of a device have their own users and documents.
LEFT_OUT = ('datasets/folders', 'datasets/layouts', 'datasets/rgbd', 'networks/spann3r/checks')
# An argument of these calls is shown to the user, the last one of LAST, the first one of others.
# PoseError and its like are missing: their texts follow `a keyframe has no pose`.
LAST = {'Health', 'UnsupportedImageError', 'LeftOut'}
CALLS = {*LAST, 'FrameError', 'SilenceError', 'BagError', 'PortError',
         'CheckpointError', 'DeviceMemoryError',
         'MapEmptyError', 'TransitionFailedError', 'warning', 'error', 'exception', 'fatal',
         '_warn', 'refuse', '_refuse', 'HintError', '_drop_first', 'input_fault'}
# The texts that these functions return, also in lists and tuples, are shown to the user.
RETURNING = {'rounding_warning', 'find', '_fault', '_unread', '_assumptions', 'find_files',
             'warnings', 'missing_link', '_reason', '_why_silent', 'fault_of'}
# The texts in these dictionaries are shown to the user.
TABLES = {'JUMPED'}
LEAST_LETTERS = 9
# Where the part of a text ends by which it is found.
END = re.compile(r',? got |;| \(')


def reasons() -> dict[str, str]:
    """Return all texts, each with the file and line where it stands."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((PACKAGE / folder).rglob('*.py')):
            name = path.relative_to(PACKAGE).as_posix()
            if not name.startswith(LEFT_OUT):
                for text, line in reasons_in(ast.parse(path.read_text())):
                    found.setdefault(text, f'{name}:{line}')
    return found


def reasons_in(tree: ast.Module) -> Iterator[tuple[str, int]]:
    constants = {item.targets[0].id: item.value.value for item in tree.body
                 if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name)
                 and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)}
    for expression in _shown(tree, constants):
        text = _text(expression, constants)
        text = END.split(text)[0].strip(' :,…')
        if len(re.sub(r'[^a-z]', '', text)) >= LEAST_LETTERS:
            yield text, expression.lineno


def _shown(tree: ast.Module, constants: dict[str, str]) -> Iterator[ast.expr]:
    """Yield the expressions of texts that the user sees."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
            if name in CALLS and getattr(node.args[0], 'id', '') != 'OK':
                yield node.args[-1 if name in LAST else 0]
        elif isinstance(node, ast.FunctionDef) and node.name in RETURNING:
            for one in ast.walk(node):
                if isinstance(one, ast.Return) and one.value is not None:
                    yield from _strings(one.value, constants)
                elif isinstance(one, ast.Call) and getattr(one.func, 'attr', '') == 'append':
                    yield from _strings(one.args[0], constants)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') in TABLES:
            yield from node.value.values


def _strings(expression: ast.AST, constants: dict[str, str]) -> Iterator[ast.expr]:
    """Yield the texts in an expression."""
    if (isinstance(expression, ast.JoinedStr | ast.Constant)
            or getattr(expression, 'id', '') in constants):
        yield expression
    else:
        for one in ast.iter_child_nodes(expression):
            yield from _strings(one, constants)


def _text(expression: ast.expr, constants: dict[str, str]) -> str:
    """Return the text of an expression; what is filled in becomes `…`."""
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return re.sub(r'%[-+.\d]*[a-z]', '…', expression.value)
    if isinstance(expression, ast.JoinedStr):
        return ''.join(_text(one, constants) for one in expression.values)
    if isinstance(expression, ast.FormattedValue):
        return _text(expression.value, constants)
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Add):
        return _text(expression.left, constants) + _text(expression.right, constants)
    if isinstance(expression, ast.Call) and getattr(expression.func, 'attr', '') == 'format':
        return re.sub(r'{[^}]*}', '…', _text(expression.func.value, constants))
    if isinstance(expression, ast.Name):
        return constants.get(expression.id, '…')
    return '…'
