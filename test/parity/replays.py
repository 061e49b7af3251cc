# SPDX-License-Identifier: Apache-2.0
"""How each kind of recording is replayed."""
from __future__ import annotations

from collections.abc import Callable

from recording import Arrays, Recording
from replay_extras import replay_extras
from replay_images import replay_offline, replay_online
from replay_parts import replay_components, replay_memory, replay_preprocess, replay_prune

REPLAYS: dict[str, Callable[[Recording], Arrays]] = {
    'components': replay_components,
    'extras': replay_extras,
    'memory': replay_memory,
    'offline': replay_offline,
    'online': replay_online,
    'preprocess': replay_preprocess,
    'prune': replay_prune,
}
