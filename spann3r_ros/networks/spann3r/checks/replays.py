# SPDX-License-Identifier: Apache-2.0
"""How each kind of recording of the network is replayed."""
from __future__ import annotations

from collections.abc import Callable

from .recording import Arrays
from .replay_images import replay_offline, replay_online
from .replay_parts import replay_components, replay_memory, replay_prune

# Each takes a recording, a device and what to do with the network that is built.
REPLAYS: dict[str, Callable[..., Arrays]] = {
    'components': replay_components,
    'memory': replay_memory,
    'offline': replay_offline,
    'online': replay_online,
    'prune': replay_prune,
}
