# SPDX-License-Identifier: Apache-2.0
"""The training runs in models/training: their settings, their order, their names."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from spann3r_ros.cli.main import main
from spann3r_ros.training.runs import chain_of, find_run, read_runs

# SHA-256 (its first 16 digits) of the sorted JSON of the settings of the runs that made the
# bundled model, and of the paper's, when they were lines of code; by the names they had then.
RECORDED = {
    'curriculum': '6fc56e93a5df1a89',
    'long': '730187470408de0a',
    'placed': 'f33d347bfc4f1b8c',
    'shown': '2016eef92ffc4d18',
    'own': '99e3baf6a57708a9',
    'slipped': 'bfd485683679d844',
    'again': 'a81ad874eb0d5419',
    'plain': 'cc08269fab8d111e',
    'longer': 'ec8dd7d2571f300d',
    'turns': '508784f5e66b2e56',
    'doors': '89ebc5b741c482c1',
    'paper': 'f4b5983865c8d0d0',
    'paper-v1.01': 'd1cbf0445c52c4e5',
    'released': '5153c43da7d0824c',
}
FIELDS = {'summary': 'A run.', 'settings': {}}


def write(folder: Path, **runs: dict[str, object]) -> Path:
    """Write runs by the stem of their files; `_01_a` stands for `01_a`."""
    for stem, values in runs.items():
        (folder / f'{stem.removeprefix("_")}.json').write_text(json.dumps(FIELDS | values))
    return folder


@pytest.mark.parametrize('former_name', RECORDED)
def test_settings_of_a_run_are_those_that_were_recorded(former_name: str) -> None:
    settings = find_run(read_runs(), former_name).config.to_dict()
    # These came later; the recorded runs have their defaults.
    later = {name: settings.pop(name) for name in (
        'network_name', 'data_share', 'places_share')}
    assert later == {'network_name': 'spann3r', 'data_share': 1.0, 'places_share': 0.0}
    assert settings['network'].pop('other_sizes') == ()
    text = json.dumps(settings, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == RECORDED[former_name]


def test_order_and_means_of_the_chain_are_those_of_the_bundled_model() -> None:
    chain = chain_of(read_runs().values())
    former = {run.name: run.former_name or run.name for run in chain}
    assert list(former.values()) == list(RECORDED)[:11]
    assert {former[run.name]: former[run.mean_with] for run in chain if run.mean_with} == {
        'again': 'slipped', 'turns': 'longer', 'doors': 'turns'}


def test_former_name_finds_its_run_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    runs = read_runs()
    assert find_run(runs, 'true_points_in_memory') is runs['true_points_in_memory']
    assert not caplog.records
    assert find_run(runs, 'shown') is runs['true_points_in_memory']
    assert "run 'shown' is now called 'true_points_in_memory'" in caplog.text


def test_command_accepts_the_former_name_of_a_run(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['train', str(tmp_path), '--run', 'shown', '--print-config']) == 0
    settings = read_runs()['true_points_in_memory'].config.to_dict()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(settings))


def test_command_names_all_runs_when_one_is_unknown(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['train', str(tmp_path), '--run', 'curiculum', '--print-config']) == 1
    error = capsys.readouterr().err
    assert "run: expected one of ['curriculum', " in error and "got 'curiculum'" in error


def test_runs_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = write(tmp_path, alone={}, _02_a={'mean_with': 'b'}, _01_b={})
    assert list(read_runs(folder)) == ['b', 'a', 'alone']
    assert [run.position for run in read_runs(folder).values()] == [1, 2, None]


@pytest.mark.parametrize(('runs', 'message'), [
    ({}, 'expected files NAME.json of training runs, found none'),
    ({'_01_a': {}, '_03_b': {}}, '03_b.json: expected the number 02'),
    ({'_02_a': {}}, '02_a.json: expected the number 01'),
    ({'_01_a': {}, '_01_b': {}}, '01_b.json: expected the number 02'),
    ({'_01_a': {}, 'a': {}}, "a.json: expected a name of its own, 'a' is also a name of .*01_a"),
    ({'_01_a': {}, 'b': {'former_name': 'a'}}, "b.json: expected a name of its own, 'a'"),
    ({'_01_a': {}, '_02_b': {'mean_with': 'c'}},
     r"02_b.json: mean_with: expected an earlier run of the chain, \['a'\], got 'c'"),
    ({'_01_a': {'mean_with': 'b'}, '_02_b': {}}, r'mean_with: expected an earlier .*, \[\], got'),
    ({'a': {'stepz': 3}}, "a.json: expected the fields .*, got 'stepz'"),
    ({'a': {'settings': []}}, r'a.json: settings: expected a dict, got \[\]'),
    ({'A': {}}, 'A.json: expected a name like 01_name.json or name.json'),
])
def test_bad_set_of_runs_is_refused(runs: dict[str, dict[str, object]], message: str,
                                    tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_runs(write(tmp_path, **runs))


@pytest.mark.parametrize(('text', 'message'), [
    ('{', 'a.json: expected JSON: '), ('[]', 'a.json: expected a JSON object, got list'),
    ('{"summary": "A run."}', "a.json: expected the field 'settings'")])
def test_file_that_is_no_run_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_runs(tmp_path)


def test_setting_that_does_not_fit_is_reported_with_its_file(tmp_path: Path) -> None:
    runs = read_runs(write(tmp_path, _01_a={'settings': {'stepz': 3}}, b={}))
    assert runs['b'].config.steps == 2600
    with pytest.raises(ValueError, match=r"01_a.json: .*known fields only, got \['stepz'\]"):
        runs['a'].config.steps  # noqa: B018
