# SPDX-License-Identifier: Apache-2.0
"""The format of the recordings, and how far a replay may deviate from one."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spann3r_ros.networks.checkable import Deviation
from spann3r_ros.networks.spann3r.config import MemoryConfig, Spann3RConfig

Arrays = dict[str, np.ndarray]

# Stored to reproduce a case or to describe the original, not results to compare.
NOT_RESULTS = {
    'components': {'act_in'},
    'prune': {'count', 'attn', 'order'},  # `order` begins with ties in arbitrary order
    'offline': {'pair_count'},  # how often the original decoded each pair
    'extras': {f'B{batch}_pose{frame}' for batch in (1, 2) for frame in range(16)},
}
MEMORY_NAMES = {'long_mem_size': 'long_term_tokens', 'work_mem_size': 'working_frames',
                'attn_thresh': 'attention_threshold', 'sim_thresh': 'similarity_threshold'}
EXACT = {'tokens', 'wm', 'lm', 'skipped', 'read_tokens', 'final_count', 'order', 'kept_sorted',
         'patch_pos'}
ABSOLUTE = {'sim', 'read_zero_frac'}
FINAL = ('final_count', 'final_attn')
# Their tokens of tiny variance magnify rounding.
DELICATE = {'enc_block0', 'value_block0', 'dec_block0'}
LIMITS = {'components': 5e-5, 'memory': 1e-5, 'online': 1e-4, 'offline': 1e-4, 'extras': 1e-5,
          'preprocess': 1e-6, 'prune': 0.0}
# A mean weight near the attention threshold of 5e-4 leaves single weights to rounding.
CROWDED_TOKENS = 2000
# `sim` after a prune of a crowded memory. A prune sorts the tokens by their worth, and the last of
# them count as the working frames (SpatialMemory.similarity). Of 4000 worths a few lie within
# rounding of the next, and a weight within rounding of the attention threshold moves its token
# past some: between AVX-512, AVX2 and SSE up to 9 places differ, up to 7 in the five frames.
# A swap of neighbours pairs two of the frame's 196 patches with other tokens, and so exchanges
# four cosines. These spread by 0.17: the standard deviation of the mean's change is
# sqrt(4) * 0.17 / 196 = 1.7e-3. The limit is three of these. Mistakes in the order make 0.1.
SORTED_SIM = 5e-3
FULL_SIZE_WIDTH = 512
# Tokens are recorded in the order of one channel; closer than this, rounding decides the order.
TIE = 1e-5


@dataclass(frozen=True)
class Recording:
    """One file: what was run (`meta`) and what came out (`arrays`)."""

    name: str
    meta: dict[str, Any]
    arrays: Arrays

    @property
    def kind(self) -> str:
        """Return the kind of run."""
        return self.meta['kind']

    @property
    def network_config(self) -> Spann3RConfig:
        """Return the sizes of the recorded network."""
        sizes = self.meta['config']
        return Spann3RConfig(
            encoder_width=sizes['enc_dim'], encoder_depth=sizes['enc_depth'],
            encoder_heads=sizes['enc_heads'], decoder_width=sizes['dec_dim'],
            decoder_depth=sizes['dec_depth'], decoder_heads=sizes['dec_heads'],
            value_depth=sizes['mem_depth'], value_heads=sizes['mem_heads'],
            dpt_width=sizes['feat'], dpt_layers=sizes['layers'])

    @property
    def memory_config(self) -> MemoryConfig:
        """Return the recorded memory's capacities: defaults unless overridden."""
        given = self.meta.get('memory')
        if given is None:
            given = {name: self.meta[name] for name in MEMORY_NAMES}
        return MemoryConfig(**{MEMORY_NAMES[name]: value for name, value in given.items()})

    @property
    def is_full_size(self) -> bool:
        """Return whether the recorded network is so large that its replay takes a minute."""
        return self.meta.get('config', {}).get('enc_dim', 0) >= FULL_SIZE_WIDTH

    @property
    def results(self) -> Arrays:
        """Return the arrays a replay has to reproduce."""
        left_out = NOT_RESULTS.get(self.kind, set())
        return {name: item for name, item in self.arrays.items() if name not in left_out}

    def unsupported(self) -> str | None:
        """Return why this file cannot be replayed, or None."""
        if self.kind not in LIMITS:
            return f'{self.name}: kind {self.kind!r} is not known here'
        if self.kind in ('online', 'offline') and any(
                height > width for _, height, width, *_ in self.meta['frames']):
            return f'{self.name}: portrait frames; the network takes height <= width only'
        return None


def load_recording(path: Path) -> Recording:
    """Read one `.npz`; nothing in it is unpickled."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return Recording(path.stem, json.loads(str(arrays.pop('meta'))), arrays)


def save_recording(path: Path, meta: dict[str, Any], arrays: Arrays) -> None:
    """Write a file in the format that `load_recording` reads."""
    np.savez_compressed(path, meta=json.dumps(meta), **arrays)


def compare(recording: Recording, replayed: Arrays) -> list[Deviation]:
    """Return the deviation of every recorded result; ValueError names one not replayed."""
    expected, got = _settle_ties(recording.results, replayed)
    deviations = []
    for name, item in expected.items():
        if item.size == 0:
            continue
        if name not in got or got[name].shape != item.shape:
            raise ValueError(f'{recording.name}: {name}: expected shape {item.shape}, '
                             f'got {got[name].shape if name in got else None}')
        error = _error(item, got[name]) / _unit(recording, name)
        if name == 'sim' and _is_crowded(recording):
            after = _is_after_prune(recording)
            for label, rows, limit in ((name, ~after, LIMITS[recording.kind]),
                                       (f'{name} after a prune', after, SORTED_SIM)):
                deviations.append(_deviation(label, error[rows], limit, limit))
        else:
            deviations.append(_deviation(name, error, *_limits(recording, name)))
    return deviations


def _deviation(name: str, error: np.ndarray, limit: float, typical_limit: float) -> Deviation:
    return Deviation(name, float(error.max(initial=0.0)),
                     float(np.quantile(error, 0.99)) if error.size else 0.0, limit, typical_limit)


def _is_after_prune(recording: Recording) -> np.ndarray:
    """Return which `sim` compare with tokens that a prune has sorted, bool [steps]."""
    sorted_frames, after = 0, []
    for grown, skipped in zip(np.diff(recording.arrays['tokens'], prepend=0),
                              recording.arrays['skipped'], strict=True):
        after.append(sorted_frames > 0)
        sorted_frames = (recording.memory_config.working_frames if grown < 0
                         else max(0, sorted_frames - (not skipped)))
    return np.array(after)


def _is_crowded(recording: Recording) -> bool:
    return recording.arrays.get('read_tokens', np.zeros(1)).max(initial=0) > CROWDED_TOKENS


def _settle_ties(expected: Arrays, got: Arrays) -> tuple[Arrays, Arrays]:
    """Order the final tokens' count and mass alike where channel 0 of the key is all but equal."""
    key = expected.get('final_k0')
    if key is None or any(name not in got or got[name].shape != key.shape for name in FINAL):
        return expected, got
    group = np.cumsum(np.diff(key, prepend=key[0]) > TIE * key.std())
    settled = []
    for arrays in (expected, got):
        count, mass = (arrays[name] for name in FINAL)
        order = np.lexsort((mass, count, group))
        settled.append({**arrays, **{name: arrays[name][order] for name in FINAL}})
    return settled[0], settled[1]


def _error(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    error = np.abs(got.astype(np.float64) - expected)
    # Where the original had nothing to compare, neither may the replay.
    return np.where(np.isnan(expected) & np.isnan(got), 0.0, error)


def _unit(recording: Recording, name: str) -> float:
    """Return the deviation that counts as one: the spread of the recorded array.

    Statistics are measured by the spread of what they describe: a mean hardly varies itself.
    """
    source = recording.arrays.get(name.removesuffix('_mean').removesuffix('_std'))
    spread = float((recording.arrays[name] if source is None else source).std())
    return 1.0 if name in EXACT | ABSOLUTE or spread == 0.0 else spread


def _limits(recording: Recording, name: str) -> tuple[float, float]:
    if name in EXACT or recording.arrays[name].dtype == np.uint8:
        return 0.0, 0.0
    limit = LIMITS[recording.kind]
    if name in DELICATE:
        return 5e-4, 5e-4
    if _is_crowded(recording):
        return 2e-3, limit
    return limit, limit
