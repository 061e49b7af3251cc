# SPDX-License-Identifier: Apache-2.0
"""What the device check asks of this network: implements `networks.checkable.Checks`."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from spann3r_ros.networks.checkable import Deviation
from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.fast.inference import prepare
from spann3r_ros.networks.stopwatch import round_products

from . import variants as own
from .network_parts import count_numbers, count_operations, limits
from .recording import compare, load_recording
from .replay_parts import unchanged
from .replays import REPLAYS
from .variants import PLAIN, PlainVariant, StreamVariant

__all__ = ['PLAIN', 'build', 'compiled_layouts', 'floor_sec', 'layouts', 'networks',
           'recordings', 'replay', 'trained']


def networks(rehearsal: bool) -> Mapping[str, tuple[int, int]]:
    """Return height and width of the images of each network of random weights, by name."""
    chosen = {name: own.sizes(name) for name in own.NETWORKS
              if name.startswith('tiny' if rehearsal else 'full')}
    return {name: _image_size(config) for name, config in chosen.items()}


def trained() -> Mapping[str, tuple[int, int]]:
    """Return height and width of the images of each bundled network, by name."""
    return {own.BUNDLED: _image_size(own.build_model(own.BUNDLED, torch.device('cpu')).config)}


def layouts(device: torch.device) -> Sequence[str]:
    """Return the layouts of a device, `PLAIN` first, compiled ones left out."""
    if device.type == 'cuda':
        return PLAIN, 'fp32', 'tf32', 'bf16', 'graph', 'graph bf16'
    return PLAIN, 'fp32', 'bf16', 'static'


def compiled_layouts(device: torch.device) -> Sequence[str]:
    """Return the layouts that take long to build, as they are compiled."""
    return ('compiled', 'graph compiled') if device.type == 'cuda' else ('compiled',)


def build(network: str, layout: str, device: torch.device) -> PlainVariant | StreamVariant:
    """Build a network in a layout on a device, with the same weights for each layout."""
    return own.build_variant(network, layout, device)


def floor_sec(network: str, layouts: Sequence[str], images: int, device: torch.device,
              rates: Mapping[str, float]) -> Mapping[str, float]:
    """Return the least seconds of a step with both predictions, of each layout.

    So many images came before it; `rates` is what `stopwatch.machine_rates` measured.
    """
    model = own.build_model(network, device)
    config, memory = model.config, own.memory_of(model.config)
    count = own.tokens_of(config)
    tokens = min(images * count, memory.capacity(count))
    image = torch.rand(1, 3, *_image_size(config), device=device)
    numbers = count_numbers(model, tokens)
    operations = count_operations(model, image, tokens)
    return {layout: sum(limits(operations, numbers, own.kind_of_numbers(layout, device),
                               dict(rates), device.type).values()) for layout in layouts}


def recordings(folder: Path) -> Mapping[str, Path]:
    """Return a folder's recordings that a device can replay, by name, small ones first."""
    loaded = [(path, load_recording(path)) for path in folder.glob('*.npz')]
    fitting = [(item.is_full_size, path.stat().st_size, path) for path, item in loaded
               if item.kind in REPLAYS and item.unsupported() is None]
    return {path.stem: path for _, _, path in sorted(fitting)}


def replay(path: Path, device: torch.device) -> Mapping[str, Sequence[Deviation]]:
    """Replay a recording in float32; return the deviations by the layout of the network.

    The network's modules are replayed as they are and, where a whole network is recorded, in its
    layout for inference.
    """
    recording = load_recording(path)
    whole = recording.kind in ('online', 'offline')
    chosen = {'as trained': unchanged, **({'for inference': prepare} if whole else {})}
    found = {}
    for name, layout in chosen.items():
        round_products(False)
        found[name] = compare(recording, REPLAYS[recording.kind](recording, device, layout))
    return found


def _image_size(config: Spann3RConfig) -> tuple[int, int]:
    return config.image_height, config.image_width
