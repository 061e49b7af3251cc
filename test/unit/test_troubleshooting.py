# SPDX-License-Identifier: Apache-2.0
"""`docs/troubleshooting.md` has every text by which the code refuses or warns, and no other."""
from __future__ import annotations

import ast
import re
from pathlib import Path

from reasons import reasons, reasons_in

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'troubleshooting.md'
SAMPLE = """
LOST = 'the camera is lost'
def find():
    return None, f'no calibration of {size} pixels'
def take(image):
    if image.bad:
        raise FrameError(f'size: expected {LOST} or {width} pixels, '
                         f'got {image.width}')
    logger.warning('%d points of %.1f m are left out; move on', 3, 0.5)
    raise FrameError(LOST) from None
    Health(OK, 'nothing to report here')
    Health(WARN, 'something to report here')
"""


def documented() -> list[str]:
    """Return the first cells of all rows that begin with a text."""
    return [text.replace('\\|', '|') for text in re.findall(
        r'^\| `([^`]+)` \|', DOCUMENT.read_text(), re.MULTILINE)]


def test_every_reason_in_the_code_is_documented() -> None:
    known = documented()
    missing = [f'| `{text}` | reason | remedy |   <- {place}'
               for text, place in reasons().items() if text not in known]
    assert not missing, 'add to docs/troubleshooting.md:\n' + '\n'.join(missing)


def test_every_documented_reason_is_in_the_code() -> None:
    known = documented()
    assert len(known) == len(set(known))
    stale = sorted(set(known) - set(reasons()))
    assert not stale, 'change or remove in docs/troubleshooting.md:\n' + '\n'.join(stale)


def test_rows_have_a_reason_and_a_remedy() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith('| `')]
    assert all(re.fullmatch(r'\| `[^`]+` \| [^|]+ \| [^|]+ \|', line) for line in rows)


def test_texts_are_read_from_all_forms_in_which_the_code_writes_them() -> None:
    assert sorted(text for text, _ in reasons_in(ast.parse(SAMPLE))) == [
        'no calibration of … pixels', 'points of … m are left out',
        'size: expected the camera is lost or … pixels', 'something to report here',
        'the camera is lost']
