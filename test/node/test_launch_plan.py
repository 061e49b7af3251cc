# SPDX-License-Identifier: Apache-2.0
"""What the launch file starts, for the values of its arguments."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import Orbit

from bags import compressed_bag, raw_bag
from spann3r_ros.datasets.bag_writer import BagWriter
from spann3r_ros.pipeline.node_settings import all_settings
from spann3r_ros.tools.launch_plan import (
    BOOLEANS,
    CHOICES,
    OVERRIDES,
    Plan,
    arguments,
    describe_by,
    make_plan,
)

ROOT = Path(__file__).parents[2]
DESCRIBE = describe_by([sys.executable, '-m', 'spann3r_ros.tools.bag_player'])


def plan(**given: object) -> Plan:
    values = {name: one.default for name, one in arguments(ROOT).items()}
    assert set(given) <= set(values)
    return make_plan(values | {name: str(value) for name, value in given.items()}, DESCRIBE)


def test_it_overrides_existing_parameters_with_their_choices() -> None:
    settings = {one.name: one for one in all_settings()}
    assert set(OVERRIDES) <= set(settings)
    known = {name: settings[name].metadata.get('choices') for name in OVERRIDES}
    booleans = {name for name in OVERRIDES if isinstance(settings[name].default, bool)}
    assert {name: BOOLEANS if name in booleans else choices and tuple(choices)
            for name, choices in known.items() if choices or name in booleans} == CHOICES


def test_it_imports_nothing_that_pip_installs() -> None:
    # `ros2 launch` may run in a Python without them.
    code = ('import sys; import spann3r_ros.tools.launch_plan; '
            "print([name for name in ('numpy', 'rosbags', 'torch', 'yaml', 'rclpy') "
            'if name in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_a_camera_needs_no_player() -> None:
    made = plan(image_topic='/camera/image_raw', namespace='/robot/', log_level='debug')
    assert (made.player, made.recorder, made.use_sim_time) == (None, None, False)
    assert made.parameters == {'use_sim_time': False}
    assert made.remappings == [('image', '/camera/image_raw'),
                               ('camera_info', '/camera/camera_info'), ('mask', 'mask')]
    assert (made.namespace, made.log_level) == ('robot', 'robot.mapper:=debug')
    assert plan().log_level == 'mapper:=info'


@pytest.mark.parametrize(('write', 'image_topic', 'transport'), [
    (raw_bag, '', 'raw'), (raw_bag, '/camera/image_raw', 'raw'),
    (compressed_bag, '', 'compressed'), (compressed_bag, '/camera/image_raw', 'compressed'),
    (compressed_bag, '/camera/image_raw/compressed', 'compressed')])
def test_a_bag_gives_topic_and_transport(
        write: object, image_topic: str, transport: str, orbit: Orbit, tmp_path: Path) -> None:
    bag = write(tmp_path / 'bag', orbit, 2)
    made = plan(bag=bag, image_topic=image_topic)
    recorded = '/camera/image_raw' + ('/compressed' if transport == 'compressed' else '')
    assert made.player == ['--bag', str(bag), '--topic', recorded, '--follow', '--quiet',
                           '--clock']
    assert made.player_remappings == []
    assert made.parameters == {'use_sim_time': True, 'image_transport': transport}
    assert made.remappings == [
        ('image', '/camera/image_raw'), ('camera_info', '/camera/camera_info'),
        ('mask', '/camera/mask')]


def test_a_compressed_topic_of_another_name_is_played_under_the_usual_one(
        orbit: Orbit, tmp_path: Path) -> None:
    made = plan(bag=compressed_bag(tmp_path / 'bag', orbit, 2, '/jpeg'), use_sim_time='false')
    assert made.remappings[0] == ('image', '/jpeg')
    assert made.player_remappings == [('/jpeg', '/jpeg/compressed')]
    assert not made.use_sim_time and '--clock' not in made.player


def test_the_recorder_has_the_clock_of_the_bag(orbit: Orbit, tmp_path: Path) -> None:
    made = plan(bag=raw_bag(tmp_path / 'bag', orbit, 2), recording=tmp_path / 'out',
                namespace='robot')
    assert made.recorder[:3] == ['-o', str(tmp_path / 'out'), '--use-sim-time']
    assert {'/tf', '/tf_static', '/diagnostics', '/robot/mapper/map_points',
            '/robot/mapper/status'} <= set(made.recorder)
    assert '--use-sim-time' not in plan(recording=tmp_path / 'out').recorder


def test_inputs_are_recorded_by_the_names_that_the_node_has(orbit: Orbit, tmp_path: Path) -> None:
    inputs = {'recording': tmp_path / 'out', 'record_inputs': 'true'}

    def recorded(**given: object) -> list[str]:
        recorder = plan(**inputs, **given).recorder
        topics = recorder[recorder.index('--topics') + 1:]
        return topics[topics.index('/mapper/status') + 1:]
    assert recorded(image_topic='/camera/image_raw', image_transport='compressed') == [
        '/camera/image_raw/compressed', '/camera/camera_info', '/mask', '/depth']
    assert recorded(bag=raw_bag(tmp_path / 'bag', orbit, 2)) == [
        '/camera/image_raw', '/camera/camera_info', '/camera/mask', '/depth']
    assert recorded() == ['/image', '/image/compressed', '/camera_info', '/mask', '/depth']
    robot = plan(**inputs, namespace='robot', image_topic='cam/image').recorder
    assert {'/robot/cam/image', '/robot/cam/camera_info', '/robot/depth'} <= set(robot)
    with pytest.raises(ValueError, match='record_inputs: expected a bag in the argument record'):
        plan(record_inputs='true')


@pytest.mark.parametrize(('given', 'reason'), [
    ({'params_file': '/no/file.yaml'}, 'params_file: expected a file, there is no /no/file'),
    ({'checkpoint': '/no/weights'}, 'checkpoint: expected a file, there is no /no/weights'),
    ({'bag': '/no/bag'}, 'bag: expected a bag, there is no /no/bag'),
    ({'bag': ROOT / 'config'}, 'bag: cannot read'),
    ({'rviz': 'true', 'rviz_config': '/no/layout'}, 'rviz_config: expected a file'),
    ({'recording': ROOT}, 'recording: expected a folder that does not exist'),
])
def test_missing_files_are_one_line(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        plan(**given)
    assert '\n' not in str(caught.value)


def test_a_wrong_topic_or_transport_is_one_line(orbit: Orbit, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 2)
    with pytest.raises(ValueError, match=r'^topic: expected images on /left; image topics'
                                         r': /camera/image_raw \(Image, 2\); bag: .*bag$'):
        plan(bag=bag, image_topic='/left')
    with pytest.raises(ValueError, match='image_transport: expected raw, as /camera/image_raw'):
        plan(bag=bag, image_transport='compressed')
    with BagWriter(tmp_path / 'two') as writer:
        for topic in ('/left', '/right'):
            writer.write_image(topic, 1, b'')
    with pytest.raises(ValueError, match=r'/left \(CompressedImage, 1\), /right'):
        plan(bag=tmp_path / 'two')


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in ('own.rviz', 'own.yaml'):
        (tmp_path / name).touch()
    made = plan(rviz='true', rviz_config='~/own.rviz', params_file='~/own.yaml')
    assert (made.rviz_config, made.params_file) == (f'{tmp_path}/own.rviz', f'{tmp_path}/own.yaml')
