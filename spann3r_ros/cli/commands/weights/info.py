# SPDX-License-Identifier: Apache-2.0
"""`spann3r info`: sizes, memory need and licence of a checkpoint."""
from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = 'show the sizes, the memory need and the licence of a checkpoint'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('checkpoint', type=Path, help='.safetensors or official .pth file')


def run(args: argparse.Namespace) -> int:
    """Print the facts about the checkpoint, one in each line."""
    from spann3r_ros.networks.registry import kind_of
    kind = kind_of(args.checkpoint)
    facts: dict[str, object] = {
        'file': args.checkpoint,
        'file size': f'{args.checkpoint.stat().st_size / 1e6:.1f} MB', 'network': kind.name,
        **(kind.files().facts(args.checkpoint) if kind.files else {})}
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f'{name:<{width}}  {fact}')
    return 0
