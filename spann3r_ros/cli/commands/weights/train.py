# SPDX-License-Identifier: Apache-2.0
"""`spann3r train`, in short `spann3r-train`: a training run, alone or under torchrun."""
from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spann3r_ros.networks.registry import kind_of, trainable_kind
from spann3r_ros.training.runs import chain_of, find_run, read_runs
from spann3r_ros.training.training_config import LOSSES, PRECISIONS, Stage, TrainingConfig

if TYPE_CHECKING:
    from spann3r_ros.training.rank import Rank
    from spann3r_ros.training.runs import Run

SUMMARY = 'train a network, or resume the run in a folder'
CHAIN = 'bundled'
# Settings that have an option of the same name.
GIVEN = ('data_share', 'places_share', 'losses', 'steps', 'frames_per_step', 'shards', 'seed',
         'precision', 'adam_lr', 'muon_lr',
         'color_jitter')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('folder', type=Path, help='folder of the state and the curve')
    parser.add_argument('--release', type=Path, metavar='FILE',
                        help='do not train; write the averaged weights to a .safetensors file')
    parser.add_argument('--mean-with', type=Path, metavar='CHECKPOINT',
                        help='with --release: write the mean with the weights of this checkpoint')
    parser.add_argument('--keep-weights', type=Path, metavar='FILE',
                        help='write the averaged weights to this file too, whenever the state is '
                             'saved')
    parser.add_argument('--start-from', type=Path, metavar='FILE',
                        help='checkpoint with which a new run begins')
    parser.add_argument('--run', metavar='NAME',
                        help='the name of a file in models/training, without its number. paper: '
                             "the paper's losses and schedule; paper-v1.01: with sequences of ten "
                             'frames; released: with the losses of the released code; files with '
                             'a number: the runs that made the bundled model, of which each '
                             'begins with the release of the one before (default: the first); '
                             f'{CHAIN}: all of these in a row, in folders of their own below the '
                             'one given')
    parser.add_argument('--config', type=Path, metavar='FILE',
                        help='JSON file of settings, in place of those of --run and the folder')
    parser.add_argument('--print-config', action='store_true',
                        help='print the settings as such a file and exit')
    parser.add_argument('--save-every', type=int, default=100, metavar='STEPS',
                        help='default: %(default)s')
    parser.add_argument('--pack', type=Path, metavar='FILE',
                        help='assets of places; a run with places makes the file if it is not '
                             'there (default: in the cache folder)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each process')
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare the options that replace settings of a run."""
    parser.add_argument('--data', action='append', metavar='LAYOUT:FOLDER[:FIRST-LAST]',
                        help='train on recordings: 7scenes, nrgbd, dtu, tum or plain; only on '
                             'frames FIRST to LAST, counted from 0; may be repeated')
    parser.add_argument('--data-share', type=float,
                        help='share of the sequences that are of --data, the rest is rendered')
    parser.add_argument('--places-share', type=float,
                        help='share of the sequences that are of furnished places')
    parser.add_argument('--frozen', action='append', metavar='PART',
                        help='encoder, decoders, heads, value_encoder or memory_attention keeps '
                             'its weights; may be repeated')
    parser.add_argument('--frame-gap', type=int, nargs=2, metavar=('LOW', 'HIGH'),
                        help='widest step between views of a recording, at the start of a run and '
                             'in its middle')
    parser.add_argument('--color-jitter', action=argparse.BooleanOptionalAction,
                        help='change the colours of recorded views at random')
    parser.add_argument('--adam-lr', type=float, metavar='RATE',
                        help='learning rate of AdamW, of all weights in the runs of the paper')
    parser.add_argument('--muon-lr', type=float, metavar='RATE',
                        help='learning rate of Muon')
    parser.add_argument('--lengths', type=int, nargs='+', help='frames of the sequences')
    parser.add_argument('--losses', choices=LOSSES,
                        help='released: mixes the sequences of a shard, so use few --shards')
    parser.add_argument('--precision', choices=PRECISIONS)
    parser.add_argument('--steps', type=int,
                        help='default: as in the run; the warm-up keeps its share')
    parser.add_argument('--frames-per-step', type=int)
    parser.add_argument('--shards', type=int,
                        help='parts of a step, distributed over the processes')
    parser.add_argument('--seed', type=int)


def run(args: argparse.Namespace) -> int:
    """Train or resume a run, or write its weights."""
    from spann3r_ros.training.loop import Trainer, read_run
    from spann3r_ros.training.release import release
    if args.run == CHAIN:
        return run_chain(args)
    if args.release:
        release(args.folder, args.release, args.mean_with)
        return 0
    begun = read_run(args.folder)
    runs = read_runs()
    first = chain_of(runs.values())[0]
    named = find_run(runs, args.run) if args.run else first
    config = read_config(args, named, begun)
    if args.print_config:
        print(json.dumps(config.to_dict(), indent=2))
        return 0
    if not (begun or args.start_from or args.config or named is first):
        raise ValueError(f'--run {args.run}: expected --start-from FILE, which it continues')
    rank, device = set_up(args)
    trainer = Trainer(config, args.folder, rank, device, find_pack(args, config, rank))
    if not trainer.resume() and args.start_from:
        trainer.start_from(args.start_from)
    trainer.run(args.save_every, lambda: args.keep_weights
                and release(args.folder, args.keep_weights))
    return 0


def run_chain(args: argparse.Namespace) -> int:
    """Train or resume the runs of the bundled model."""
    for name in ('start_from', 'config', 'release', 'mean_with', 'keep_weights', 'pack', 'data',
                 'data_share', 'places_share', 'frozen', 'frame_gap', 'color_jitter', 'adam_lr',
                 'muon_lr', 'lengths', 'losses', 'seed'):
        if getattr(args, name) is not None:
            raise ValueError(f'--run {CHAIN}: expected no --{name.replace("_", "-")}, which is '
                             'for a single run')
    from spann3r_ros.training.chain import stem_of, train_chain
    from spann3r_ros.training.loop import read_run
    runs = read_runs()
    chain = {run.name: run for run in chain_of(runs.values())}
    former_names = {name: run.former_name for name, run in chain.items() if run.former_name}

    def settle(name: str, begun: TrainingConfig | None) -> TrainingConfig:
        return read_config(args, chain[name], begun)

    if args.print_config:
        stems = {name: stem_of(args.folder, name, former_names.get(name, name)) for name in chain}
        print(json.dumps({name: settle(name, read_run(args.folder / stem)).to_dict()
                          for name, stem in stems.items()}, indent=2))
        return 0
    rank, device = set_up(args)
    means = {name: run.mean_with for name, run in chain.items() if run.mean_with}
    last = train_chain(args.folder, chain, settle, means, rank, device, args.save_every,
                       former_names)
    if rank.index == 0:
        print(f'the bundled model: {last}')
    return 0


def set_up(args: argparse.Namespace) -> tuple[Rank, str]:
    """Prepare this process; return its rank and its device."""
    import torch

    from spann3r_ros.networks.devices import resolve_device
    from spann3r_ros.training.rank import Rank
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(args.threads)
    rank = Rank.join()
    device = str(resolve_device(args.device))
    if device == 'cuda' and rank.count > 1:
        device = f'cuda:{rank.local}'
    return rank, device


def find_pack(args: argparse.Namespace, config: TrainingConfig, rank: Rank) -> Path | None:
    """Return the file of the places' assets, which the first process makes; None: no places."""
    if not config.places_share:
        if args.pack:
            raise ValueError('--pack: expected a run with places, got a places_share of 0')
        return None
    from spann3r_ros.rooms.assets.asset_pack import default_pack, ensure_pack
    path = args.pack or default_pack()
    if rank.index == 0:
        ensure_pack(path)
    rank.wait()
    return path


def read_config(args: argparse.Namespace, named: Run,
                begun: TrainingConfig | None) -> TrainingConfig:
    """Return the settings of a named run, changed by the arguments.

    The unchanged settings are those of `begun`, the run in the folder, if there is one. ValueError
    for settings that do not fit.
    """
    if args.config:
        config = TrainingConfig.read(args.config)
    else:
        config = begun or named.config
    if args.steps is not None and config is not begun:
        config = config.lasting(args.steps)
    given = {item: value for item in GIVEN if (value := getattr(args, item)) is not None}
    for item in ('data', 'frozen', 'frame_gap'):
        if getattr(args, item):
            given[item] = tuple(getattr(args, item))
    if args.lengths:
        given['stages'] = (Stage(1.0, tuple(args.lengths)),)
    if args.start_from and begun is None and (args.config or not named.own_sizes):
        kind = trainable_kind(kind_of(args.start_from).name)
        sizes = kind.training().read_sizes(args.start_from)
        # A file's settings may have another image size than the weights, and more blocks.
        keeps = args.config and kind.name == config.network_name and (
            kind.training().takes_weights(config.network, sizes))
        if not keeps:
            given |= {'network_name': kind.name, 'network': sizes}
    if args.data_share is not None and not (config.data or given.get('data')):
        raise ValueError('--data-share: expected recordings beside it, by --data')
    return replace(config, **given)
