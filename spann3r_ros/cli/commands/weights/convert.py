# SPDX-License-Identifier: Apache-2.0
"""`spann3r convert`: writes an official checkpoint as a safetensors file."""
from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = 'convert an official .pth checkpoint to .safetensors'
DTYPES = ('float16', 'bfloat16', 'float32')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('source', type=Path, help='.pth or .safetensors file')
    parser.add_argument('target', type=Path, help='.safetensors file to write')
    parser.add_argument('--dtype', choices=DTYPES, default='float32',
                        help='precision of the stored weights (default: %(default)s)')
    parser.add_argument('--licence', '--license', default='', metavar='TEXT',
                        help='licence note to store; default: that of the source, and for a .pth '
                             'that of its authors')


def run(args: argparse.Namespace) -> int:
    """Convert; an existing target is never overwritten."""
    if args.target.suffix != '.safetensors':
        raise ValueError(f'target: expected a .safetensors file, got {args.target.name}')
    if args.target.exists():
        raise FileExistsError(f'target: {args.target} exists already')
    from spann3r_ros.networks.registry import kind_of
    kind = kind_of(args.source)
    if kind.files is None:
        raise ValueError(f'source: files of the network {kind.name!r} cannot be converted')
    kind.files().convert(args.source, args.target, args.dtype, args.licence)
    print(f'wrote {args.target}, {args.target.stat().st_size / 1e6:.1f} MB, {args.dtype}')
    return 0
