# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands share: how a network computes, and its settings."""
from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spann3r_ros.core.settings import list_settings, rebuild
from spann3r_ros.networks.registry import kind_of, network_kinds
from spann3r_ros.networks.threads import MAX_THREADS

if TYPE_CHECKING:
    from spann3r_ros.core.network import Compute, Network
    from spann3r_ros.networks.kind import NetworkKind


# Stands for the bundled model until `cli.main` replaces it.
BUNDLED = Path('bundled')


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the argument `checkpoint`; without it, it is the bundled model."""
    parser.add_argument('checkpoint', type=Path, nargs='?', default=BUNDLED,
                        help='.safetensors or official .pth file (default: the bundled model)')


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare device, precision, threads and compilation."""
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, fp32, tf32, bf16 or int8')
    parser.add_argument('--threads', type=int, default=0,
                        help='CPU threads; 0: by the size of the network (default: %(default)s)')
    parser.add_argument('--compile', action='store_true', help='compile the network')


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare device and precision, and the settings of every registered network.

    If two networks have a setting of the same name, the name of the network precedes it.
    """
    add_compute_arguments(parser)
    settings = {(kind, item.name): item for kind, entry in network_kinds().items()
                for item in list_settings(entry.settings())}
    names = Counter(name for _, name in settings)
    for (kind, name), item in settings.items():
        flag = name if names[name] == 1 else f'{kind}.{name}'
        parser.add_argument(f'--{flag.replace("_", "-")}', dest=f'{kind}.{name}',
                            type=type(item.default), default=None,
                            help=f'{item.metadata["doc"]} ({kind}; default: {item.default})')


def read_compute(args: argparse.Namespace) -> Compute:
    """Return the settings of the device and the precision."""
    from spann3r_ros.core.network import Compute
    if not 0 <= args.threads <= MAX_THREADS:
        raise ValueError(f'threads: expected a number in [0, {MAX_THREADS}], got {args.threads}')
    return Compute(args.device, args.precision, args.compile, getattr(args, 'cuda_graph', False),
                   args.threads)


def read_settings(args: argparse.Namespace, kind: NetworkKind) -> Any:  # noqa: ANN401
    """Return a network's settings; raise ValueError for a value or network that does not fit."""
    values = {}
    for other in network_kinds().values():
        for item in list_settings(other.settings()):
            value = getattr(args, f'{other.name}.{item.name}')
            if value is None:
                continue
            if other is not kind:
                raise ValueError(f'{item.name}: expected settings of {kind.name}, the network of '
                                 f'{args.checkpoint.name}, got one of {other.name}')
            values[item.name] = value
    return rebuild(kind.settings(), values)


def open_network(args: argparse.Namespace) -> Network:
    """Open the network of `args.checkpoint` with the settings in `args`."""
    kind = kind_of(args.checkpoint)
    return kind.open(args.checkpoint, read_settings(args, kind), read_compute(args))


@contextmanager
def without_frame_warnings() -> Iterator[None]:
    """Do not show warnings about single frames; the tables of the commands count these frames."""
    mapping = logging.getLogger('spann3r_ros.mapping')
    before = mapping.level
    mapping.setLevel(logging.ERROR)
    try:
        yield
    finally:
        mapping.setLevel(before)
