# SPDX-License-Identifier: Apache-2.0
"""How each kind of recording is replayed."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from replay_extras import replay_extras, replay_preprocess

from spann3r_ros.networks.spann3r.checks import replays
from spann3r_ros.networks.spann3r.checks.recording import Arrays

DATA = Path(__file__).parent / 'data'
REPLAYS: dict[str, Callable[..., Arrays]] = {
    **replays.REPLAYS, 'extras': replay_extras, 'preprocess': replay_preprocess}


def recording_paths() -> list[Path]:
    """Return every recording in SPANN3R_GOLDENS, or beside this file when that is not set."""
    directory = Path(os.environ.get('SPANN3R_GOLDENS') or DATA)
    paths = sorted(directory.glob('*.npz'))
    if not paths:
        raise FileNotFoundError(f'SPANN3R_GOLDENS: no .npz recordings in {directory}')
    return paths
