# SPDX-License-Identifier: Apache-2.0
"""The dataclasses are the only home of defaults; everything else agrees with them."""
from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from spann3r_ros.networks.spann3r.spann3r_network import PRECISIONS
from spann3r_ros.ros import parameters
from spann3r_ros.ros.parameters import Settings, all_parameters, from_values, to_markdown, to_yaml

ROOT = Path(__file__).parents[2]


def flatten(tree: dict, prefix: str = '') -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= (flatten(value, f'{prefix}{name}.') if isinstance(value, dict)
                 else {prefix + name: value})
    return flat


def test_yaml_file_is_what_the_dataclasses_say() -> None:
    text = (ROOT / 'config' / 'mapper.yaml').read_text()
    assert text == to_yaml(), (
        'run: python3 -m spann3r_ros.ros.parameters > config/mapper.yaml')


def test_readme_has_the_table_of_parameters() -> None:
    assert to_markdown() in (ROOT / 'README.md').read_text(), (
        'update README.md from: python3 -m spann3r_ros.ros.parameters --markdown')


def test_yaml_file_holds_every_parameter_at_its_default() -> None:
    tree = yaml.safe_load((ROOT / 'config' / 'mapper.yaml').read_text())
    found = flatten(tree['/**']['ros__parameters'])
    expected = {parameter.name: parameter.default for parameter in all_parameters()}
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in expected.items()}


def test_names_are_unique_and_documented() -> None:
    names = [parameter.name for parameter in all_parameters()]
    assert len(names) == len(set(names))
    assert all(parameter.descriptor().description for parameter in all_parameters())


def test_defaults_rebuild_the_default_settings() -> None:
    defaults = {parameter.name: parameter.default for parameter in all_parameters()}
    assert from_values(defaults.__getitem__) == Settings()


def test_a_nested_value_reaches_its_dataclass() -> None:
    values = {parameter.name: parameter.default for parameter in all_parameters()}
    values |= {'memory.working_frames': 7, 'mode': 'replay'}
    settings = from_values(values.__getitem__)
    assert settings.memory.working_frames == 7
    assert settings.node.mode == 'replay'


@pytest.mark.parametrize(('name', 'value'), [
    ('mode', 'sideways'), ('max_rate', -1.0), ('map_frame', ''), ('voxel_map.max_voxels', 0)])
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    values = {parameter.name: parameter.default for parameter in all_parameters()}
    values[name] = value
    with pytest.raises(ValueError, match=name.rpartition('.')[2]):
        from_values(values.__getitem__)


def test_descriptors_carry_the_bounds() -> None:
    found = {parameter.name: parameter.descriptor() for parameter in all_parameters()}
    assert found['max_rate'].floating_point_range[0].to_value == 1000.0
    assert found['voxel_map.max_voxels'].integer_range[0].from_value == 100
    assert 'replay' in found['mode'].additional_constraints
    assert all(choice in found['precision'].additional_constraints for choice in PRECISIONS)


def launch_constant(name: str) -> ast.expr:
    tree = ast.parse((ROOT / 'launch' / 'mapper.launch.py').read_text())
    return next(item.value for item in tree.body if isinstance(item, ast.Assign)
                and item.targets[0].id == name)


def test_launch_file_overrides_existing_parameters_only() -> None:
    names = set(ast.literal_eval(launch_constant('OVERRIDES')))
    assert names <= {parameter.name for parameter in all_parameters()}


def test_launch_file_declares_the_documented_arguments() -> None:
    keys = {key.value for key in launch_constant('ARGUMENTS').keys if key is not None}
    declared = keys | set(ast.literal_eval(launch_constant('OVERRIDES')))
    assert declared >= {
        'image_topic', 'camera_info_topic', 'image_transport', 'params_file', 'checkpoint',
        'device', 'rviz', 'rviz_config', 'bag', 'recording', 'autostart', 'use_sim_time',
        'namespace', 'log_level'}


def test_rviz_file_shows_the_outputs_in_the_map_frame() -> None:
    view = yaml.safe_load((ROOT / 'rviz' / 'mapper.rviz').read_text())['Visualization Manager']
    assert view['Global Options']['Fixed Frame'] == Settings().node.map_frame
    shown = {one['Class'].rpartition('/')[2]: one for one in view['Displays']}
    topics = {one['Topic']['Value'] for one in view['Displays'] if 'Topic' in one}
    assert topics == {'/mapper/map_points', '/mapper/points', '/mapper/path',
                      '/mapper/confidence'}
    assert {'PointCloud2', 'Path', 'TF', 'Image'} <= set(shown)


def test_every_group_is_a_dataclass_field() -> None:
    groups = {parameter.name.rpartition('.')[0] for parameter in all_parameters()} - {''}
    settings = Settings()
    assert all(hasattr(settings.mapper, group) or hasattr(settings.node, group)
               for group in groups)
    assert parameters.FOREIGN[-1].endswith('.')
