# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from chromium import Chromium, find_chromium

# Set where the tests in a browser may not be skipped.
REQUIRED = 'SPANN3R_REQUIRES_BROWSER'


@pytest.fixture(scope='session')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        reason = 'no Chromium on this machine; run: sudo apt install chromium'
        if os.environ.get(REQUIRED):
            pytest.fail(f'{reason}, because {REQUIRED} is set')
        pytest.skip(reason)
    chromium = Chromium(program, tmp_path_factory.mktemp('profile'))
    yield chromium
    chromium.close()
