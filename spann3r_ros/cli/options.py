# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands share: how a network computes, what it remembers."""
from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from spann3r_ros.networks.spann3r.config import MemoryConfig

if TYPE_CHECKING:
    from spann3r_ros.core.network import Compute


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare device, precision, compilation and the settings of the memory."""
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, fp32, tf32, bf16 or int8')
    parser.add_argument('--compile', action='store_true', help='compile the network')
    for item in fields(MemoryConfig):
        parser.add_argument(f'--{item.name.replace("_", "-")}', type=type(item.default),
                            default=item.default,
                            help=f'{item.metadata["doc"]} (default: %(default)s)')


def read_compute(args: argparse.Namespace) -> Compute:
    """Return where and how the network is to compute."""
    from spann3r_ros.core.network import Compute
    return Compute(args.device, args.precision, args.compile, getattr(args, 'cuda_graph', False))


def read_memory_config(args: argparse.Namespace) -> MemoryConfig:
    """Return the settings of the memory; ValueError for one out of bounds."""
    return MemoryConfig(**{item.name: getattr(args, item.name) for item in fields(MemoryConfig)})
