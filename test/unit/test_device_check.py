# SPDX-License-Identifier: Apache-2.0
"""The check of a device: what becomes of one part does not reach the others; each part has rows.

The children import this file: it imports nothing heavy.
"""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from spann3r_ros.cli.commands.scores.check import PART_NAMES, default_recordings
from spann3r_ros.cli.main import main
from spann3r_ros.evaluation.device_check.check_rows import PartTime, Results, Row, markdown_table
from spann3r_ros.evaluation.device_check.part_process import (
    CheckSettings,
    Emit,
    Part,
    run_parts,
)

ROOT = Path(__file__).parents[2]
CPU = CheckSettings('cpu')
# What a machine with a GPU may lack; imported by no part.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('rclpy', 'rosbags', 'open3d', 'sensor_msgs', 'cv_bridge'):
            raise ImportError(f'{name} was asked for')

sys.meta_path.insert(0, Blocked())
"""


def good(_: CheckSettings, emit: Emit) -> None:
    emit(Row('good', 'row', 'passed', {'a': 1.5}))


def raising(_: CheckSettings, emit: Emit) -> None:
    emit(Row('raising', 'row', 'passed'))
    raise RuntimeError('CUDA error: an illegal memory access\nsecond line')


def hanging(_: CheckSettings, emit: Emit) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    emit(Row('hanging', str(os.getpid()), 'passed'))
    time.sleep(600)


def exiting(_: CheckSettings, emit: Emit) -> None:
    emit(Row('exiting', 'row', 'passed'))
    os._exit(7)


def killed(_: CheckSettings, emit: Emit) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def silent(_: CheckSettings, emit: Emit) -> None:
    pass


def test_part_that_fails_is_a_row_and_the_others_run(tmp_path: Path) -> None:
    file = tmp_path / 'check.json'
    results, seen = Results(file, {'date': 'today'}), []

    def observe(row: Row) -> None:
        seen.append(row)
        written = json.loads(file.read_text())
        assert [item['name'] for item in written['rows']] == [item.name for item in seen]
    limits = {hanging: 3.0}
    run_parts([Part(run.__name__, run, {'cpu': limits.get(run, 60.0)})
               for run in (hanging, raising, exiting, killed, silent, good)],
              CPU, results, observe)
    assert results.rows == seen and results.failed
    ends = {row.part: (row.name, row.outcome, row.detail) for row in results.rows}
    assert ends['hanging'] == ('time limit', 'failed', 'still running after 3 s')
    assert ends['raising'][:2] == ('part', 'failed')
    assert ends['raising'][2].startswith('RuntimeError: CUDA error: an illegal memory access')
    trace = next(row.trace for row in results.rows if row.name == 'part')
    assert 'second line' in trace and trace.startswith('Traceback')
    assert ends['exiting'] == ('process', 'failed', 'ended by exit status 7')
    assert ends['killed'] == ('process', 'failed', 'ended by signal SIGKILL')
    assert ends['silent'] == ('process', 'failed', 'there was no result')
    assert ends['good'] == ('row', 'passed', '')
    # A row that came before the end of its part is kept.
    assert [row.part for row in seen if row.outcome == 'passed'] == [
        'hanging', 'raising', 'exiting', 'good']
    assert list(json.loads(file.read_text())['parts']) == [
        'hanging', 'raising', 'exiting', 'killed', 'silent', 'good']
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen[0].name), 0)


def test_goal_that_is_missed_is_no_failure(tmp_path: Path) -> None:
    results = Results(tmp_path / 'check.json', {})
    results.add(Row('speed', 'goal', 'missed', {'value': float('nan')}))
    assert not results.failed
    assert json.loads((tmp_path / 'check.json').read_text())['rows'][0]['figures'] == {
        'value': None}
    results.add(Row('speed', 'a', 'failed'))
    assert results.failed
    with pytest.raises(ValueError, match="outcome: expected one of .*got 'fine'"):
        Row('speed', 'a', 'fine')


def test_tables_hold_every_row_and_time(tmp_path: Path) -> None:
    results = Results(tmp_path / 'check.json', {'card': 'none'})
    results.add(Row('speed', 'a', 'measured', {'frame_ms': 12.345, 'peak': 3}))
    results.add(Row('speed', 'b', 'failed', detail='x | y'))
    results.finish('speed', PartTime(2.0, 5.0))
    table = results.tables(markdown_table)
    assert '| a | measured | 12.3 | 3 |  |' in table and '| b | failed | x \\| y |' in table
    assert '| speed | 2.0 | 5 |' in table and table.startswith('card none')


def test_recordings_are_those_of_the_source_tree_by_default(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv('SPANN3R_GOLDENS', raising=False)
    assert default_recordings() == Path(__file__).parents[1] / 'parity' / 'data'
    monkeypatch.setenv('SPANN3R_GOLDENS', str(tmp_path))
    assert default_recordings() == tmp_path


def test_missing_recordings_are_a_failed_row(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv('SPANN3R_GOLDENS', str(tmp_path))
    assert main(['check', '--device', 'cpu', '--output', str(tmp_path / 'check.json'), '--parts',
                 'recorded']) == 1
    assert f'no .npz recordings in {tmp_path}' in capsys.readouterr().out


def test_names_and_limits_of_the_parts() -> None:
    from spann3r_ros.evaluation.device_check.check_parts import PARTS
    assert tuple(PARTS) == PART_NAMES
    assert sum(part.limits_sec['cuda'] for part in PARTS.values()) <= 240.0
    assert sum(part.limits_sec['cpu'] for part in PARTS.values()) <= 600.0


def test_goals_are_judged_by_the_fastest_layout() -> None:
    from spann3r_ros.evaluation.device_check.check_parts import goals
    slow = {'frame_ms': 20.0, 'times_plain': 1.0, 'times_floor': 40.0, 'read_share': 0.01}
    fast = {'frame_ms': 3.9, 'times_plain': 5.1, 'times_floor': 7.8, 'read_share': 0.2}
    rows = list(goals('speed', 'full', 'plain', {'plain': slow, 'fp32': slow, 'graph': fast}))
    assert [row.outcome for row in rows] == ['met', 'met', 'missed', 'missed']
    assert {row.detail for row in rows} == {'full, graph'}


def test_shortage_on_cuda_leaves_nothing_and_gives_all_back(
        monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from spann3r_ros.evaluation.device_check.device_maps import CudaShortage
    total, reserved = 2**36, 5 * 2**30 + 12_345
    limits, held = [], []

    def empty(size: int, dtype: torch.dtype, device: int) -> int:
        if sum(held) + size > limits[-1] * total:
            raise torch.OutOfMemoryError('over the limit')
        held.append(size)
        return size

    for name, stand_in in {
            'current_device': lambda: 0, 'synchronize': lambda: None,
            'empty_cache': lambda: None, 'memory_reserved': lambda _: reserved,
            'get_device_properties': lambda _: SimpleNamespace(total_memory=total),
            'set_per_process_memory_fraction': lambda share, _: limits.append(share)}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch, 'empty', empty)
    shortage = CudaShortage()
    shortage.begin()
    assert 0 <= reserved - sum(held) < 512
    held.pop(0)  # something was freed since
    shortage.begin()
    assert 0 <= reserved - sum(held) < 512
    shortage.end()
    shortage.end()
    assert len(limits) == 2 and limits[-1] == 1.0


def test_every_part_that_compiles_nothing_has_rows_without_ros_and_bags(tmp_path: Path) -> None:
    (tmp_path / 'sitecustomize.py').write_text(BLOCKED)
    parts = [name for name in PART_NAMES if name != 'compiled']
    done = subprocess.run(
        [sys.executable, '-m', 'spann3r_ros.cli', 'check', '--device', 'cpu', '--quick',
         '--output', tmp_path / 'check.json', '--table', tmp_path / 'check.md', '--recordings',
         ROOT / 'test' / 'parity' / 'data', '--parts', *parts], cwd=ROOT, capture_output=True,
        text=True, timeout=300, env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'})
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / 'check.json').read_text())
    assert list(dict.fromkeys(row['part'] for row in written['rows'])) == parts
    rows = {(row['part'], row['name']): row for row in written['rows']}
    refused = rows['out-of-memory', 'mapper']['figures']
    assert refused['refused'] == refused['short_frames'] and refused['recoveries'] > 0
    assert rows['mapper', 'step by step']['figures']['off_CPU'] < 1e-5
    exact = rows['deviation', 'spann3r bundled, fp32']['figures']
    rounded = rows['deviation', 'spann3r bundled, bf16']['figures']
    assert 0.0 < exact['deviation'] < 1e-5 < rounded['deviation'] < 0.05
    assert (tmp_path / 'check.md').read_text().count('\n| ') > len(rows)
