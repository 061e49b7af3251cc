# SPDX-License-Identifier: Apache-2.0
"""The parity harness itself, on recordings of this package's own runs in the same format."""
from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replays import DATA, REPLAYS, recording_paths

from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import preprocess
from spann3r_ros.networks.spann3r.checks.recipe import (
    PIECES,
    STEP,
    image,
    scramble,
    uniform,
)
from spann3r_ros.networks.spann3r.checks.recording import (
    LIMITS,
    Arrays,
    Recording,
    compare,
    load_recording,
    save_recording,
)

NETWORK = {'enc_dim': 32, 'enc_depth': 1, 'enc_heads': 2, 'dec_dim': 24, 'dec_depth': 4,
           'dec_heads': 2, 'mem_depth': 1, 'mem_heads': 2, 'feat': 8, 'layers': [4, 6, 8, 10]}
SAMPLING = {'pixel_start': 2, 'pixel_stride': 5, 'token_stride': 2, 'channel_stride': 3}
CORNERS = [(40 * step, 23 * step) for step in range(14)]
WALK = [[5, 48, 80, *CORNERS[step - (step > 3)]] for step in range(14)]  # frame 4 repeats 3


def _preprocess_case() -> tuple[dict[str, Any], Arrays]:
    result = preprocess(Frame(0, 'camera', image(3, 300, 411, 0, 0), None), (224, 224)).image
    item = {'W': 411, 'H': 300, 'seed': 3, 'crc32': zlib.crc32(result.tobytes())}
    return {'kind': 'preprocess', 'items': [item], 'stride': 7, 'norm_stride': 16}, {}


def _prune_case() -> tuple[dict[str, Any], Arrays]:
    count = np.repeat(np.arange(20.0), 5)[::-1].astype(np.float32)
    return ({'kind': 'prune', 'top_k': 70, 'work_mem_size': 4},
            {'count': count, 'attn': 3.0 + uniform('mass', (100,), 1).astype(np.float32)})


CASES = {
    'online': ({'kind': 'online', 'config': NETWORK, 'salt': 7, 'frames': WALK,
                'memory': {'long_mem_size': 110, 'work_mem_size': 2}, **SAMPLING}, {}),
    'offline': ({'kind': 'offline', 'config': NETWORK, 'salt': 8, 'frames': WALK[:4],
                 'memory': {}, **SAMPLING}, {}),
    'memory': ({'kind': 'memory', 'salt': 9, 'C': 8, 'P': 3, 'T': 24, 'long_mem_size': 40,
                'work_mem_size': 4, 'attn_thresh': 5e-4, 'sim_thresh': 0.95, 'repeats': [6],
                'copy_noise': 0.05}, {}),
    'preprocess': _preprocess_case(),
    'prune': _prune_case(),
}


@pytest.fixture(scope='module', params=CASES)
def recorded(request: pytest.FixtureRequest,
             tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A file written from our own run and read back."""
    meta, inputs = CASES[request.param]
    replay = REPLAYS[meta['kind']]
    path = tmp_path_factory.mktemp('recordings') / f'{request.param}.npz'
    save_recording(path, meta, inputs | replay(Recording(request.param, meta, inputs)))
    return load_recording(path)


def test_words_are_scrambled_as_by_splitmix64() -> None:
    state = torch.tensor([1, 2]) * STEP
    assert [word % 2**64 for word in scramble(state).tolist()] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_samples_do_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = uniform('a name', (3, 700), 2**32 - 1)
    monkeypatch.setitem(PIECES, 'cpu', 64)
    np.testing.assert_array_equal(uniform('a name', (3, 700), 2**32 - 1), whole)
    assert abs(whole.mean()) < 0.1 and abs(whole.var() - 1.0) < 0.1


def test_own_recording_replays_within_limits(recorded: Recording) -> None:
    deviations = compare(recorded, REPLAYS[recorded.kind](recorded))
    assert {item.name for item in deviations} == set(recorded.results)
    assert all(item.acceptable for item in deviations)


def test_every_altered_array_is_noticed(recorded: Recording) -> None:
    true = recorded.results
    for name, item in true.items():
        wrong = item + (np.ones_like(item) if np.issubdtype(item.dtype, np.integer)
                        else 0.01 * max(float(np.nanstd(item)), 1.0) * np.ones_like(item))
        failed = [item.name for item in compare(recorded, {**true, name: wrong})
                  if not item.acceptable]
        assert failed in ([name], ['final_count', 'final_attn']), name
        with pytest.raises(ValueError, match=f'{name}: expected shape'):
            compare(recorded, {key: item for key, item in true.items() if key != name})


def test_own_recording_covers_what_the_case_is_for(recorded: Recording) -> None:
    arrays = recorded.arrays
    if recorded.kind in ('online', 'memory'):
        assert arrays['skipped'].sum() == 1
        assert (np.diff(arrays['tokens']) < 0).any(), 'nothing was pruned'
    if recorded.kind == 'online':
        assert arrays['pts'].shape == (14, 10, 16, 3)
        assert arrays['x_fused'].shape == (12, 8, 11)
    if recorded.kind == 'offline':
        assert sorted(arrays['order']) == [0, 1, 2, 3]


@pytest.mark.parametrize('kind, public', [
    ('online', 'tiny_landscape'), ('offline', 'tiny_offline'), ('memory', 'memory'),
    ('prune', 'prune')])
def test_replay_covers_the_format_of_recordings(kind: str, public: str) -> None:
    meta, inputs = CASES[kind]
    replayed = REPLAYS[kind](Recording(kind, meta, inputs))
    assert set(replayed) == set(load_recording(DATA / f'{public}.npz').results)


def test_one_sided_nan_is_no_agreement() -> None:
    recording = Recording('made', {'kind': 'offline'}, {'sim': np.array([np.nan, 0.5])})
    assert compare(recording, {'sim': np.array([np.nan, 0.5])})[0].acceptable
    for other in ([0.1, 0.5], [np.nan, np.nan]):
        assert not compare(recording, {'sim': np.array(other)})[0].acceptable


def test_tokens_with_equal_keys_may_change_places() -> None:
    final = {'final_k0': np.array([0.0, 1.0, 1.0 + 1e-7, 2.0]),
             'final_count': np.array([4.0, 3.0, 2.0, 1.0]),
             'final_attn': np.array([0.1, 0.2, 0.3, 0.4])}
    recording = Recording('made', {'kind': 'online'}, final)
    for swap, expected in (([0, 2, 1, 3], True), ([1, 0, 2, 3], False)):
        swapped = {name: item if name == 'final_k0' else item[swap]
                   for name, item in final.items()}
        assert all(item.acceptable for item in compare(recording, swapped)) is expected


def test_similarity_to_sorted_tokens_of_a_crowded_memory_has_a_limit_of_its_own() -> None:
    memory = {'long_mem_size': 2200, 'work_mem_size': 2}
    tokens = np.array([700, 1400, 2100, 1500, 2200, 2200, 2900, 3600])
    skipped = np.array([0, 0, 0, 0, 0, 1, 0, 0])
    recording = Recording('made', {'kind': 'online', 'memory': memory}, {
        'tokens': tokens, 'skipped': skipped, 'read_tokens': tokens, 'sim': np.full(8, 0.5)})
    noticed = {off: {row for row in range(8) if not all(item.acceptable for item in compare(
        recording, {**recording.arrays, 'sim': 0.5 + off * np.eye(8)[row]}))}
               for off in (2e-5, 2e-3, 2e-2)}
    # Pruned by row 3; two frames, rows 4 and 6, later no sorted token is among the last.
    assert noticed == {2e-5: set(), 2e-3: {0, 1, 2, 3, 7}, 2e-2: set(range(8))}


def test_unknown_kind_and_portrait_are_skipped_with_a_reason() -> None:
    assert "'video' is not known" in Recording('made', {'kind': 'video'}, {}).unsupported()
    portrait = Recording('made', {'kind': 'online', 'frames': [[1, 64, 48, 0, 0]]}, {})
    assert 'portrait' in portrait.unsupported()
    assert set(LIMITS) == set(REPLAYS)


def test_recordings_come_from_the_named_directory(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('SPANN3R_GOLDENS', str(tmp_path))
    with pytest.raises(FileNotFoundError, match='SPANN3R_GOLDENS'):
        recording_paths()
    save_recording(tmp_path / 'other.npz', {'kind': 'prune'}, {})
    assert [path.name for path in recording_paths()] == ['other.npz']
