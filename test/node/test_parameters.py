# SPDX-License-Identifier: Apache-2.0
"""The dataclasses define all defaults; the other files agree with them."""
from __future__ import annotations

from pathlib import Path

import pytest
import rclpy
import rclpy.node
import yaml

from spann3r_ros.core.settings import RUNNING
from spann3r_ros.networks.registry import network_kinds
from spann3r_ros.networks.spann3r.spann3r_network import PRECISIONS
from spann3r_ros.pipeline.node_settings import (
    Settings,
    all_settings,
    former_names,
    from_values,
    read_yaml,
    to_markdown,
    to_yaml,
)
from spann3r_ros.ros import parameters

ROOT = Path(__file__).parents[2]
RUNNING_NAMES = {
    'time_jump', 'pose_timeout_sec', 'max_rate', 'camera_info_timeout_sec',
    'transform_tolerance_sec', 'tf_publish_period_sec', 'odom_hold_sec',
    'map_publish_period_sec', 'max_cloud_bytes', 'map_directory', 'live_pose', 'path_max_size',
    *(f'diagnostics.{name}' for name in ('stale_after_sec', 'max_dropped_share')),
    *(f'keyframes.{name}' for name in (
        'selection', 'min_parallax', 'min_overlap', 'max_interval_sec', 'after_change',
        'stride', 'min_interval_sec', 'max_full_bytes', 'max_bytes')),
    *(f'fragments.{name}' for name in ('max_keyframes', 'overlap_keyframes',
                                       'min_confidence_share', 'max_lost')),
    *(f'grid.{name}' for name in (
        'min_height', 'max_height', 'max_range', 'floor', 'floor_height', 'min_free_share',
        'period_sec', 'force')),
    *(f'sight.{name}' for name in ('check', 'min_detail', 'min_sharpness')),
    *(f'loops.{name}' for name in (
        'enabled', 'interval', 'min_gap', 'min_similarity', 'min_support', 'max_residual',
        'min_correlation', 'drift', 'fragment_drift', 'gate_probability')),
    *(f'relocalisation.{name}' for name in (
        'enabled', 'after_load', 'max_gap_sec', 'tries', 'interval', 'hint_radius',
        'trust_hint')),
    *(f'pose.{name}' for name in (
        'min_confidence', 'best_fraction', 'max_points', 'ransac_iterations', 'max_reprojection',
        'min_inlier_fraction', 'pointmap_weight', 'drift', 'gate_probability')),
    *(f'scale.{name}' for name in ('metres_per_unit', 'max_deviation', 'source_deviation',
                                   'mount_deviation')),
    *(f'voxel_map.{name}' for name in ('min_confidence', 'edge_jump', 'max_depth',
                                       'min_observations', 'integrate_without_pose')),
    *(f'carving.{name}' for name in ('enabled', 'min_votes', 'max_hits', 'gap_sec', 'margin'))}


def flatten(tree: dict, prefix: str = '') -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= (flatten(value, f'{prefix}{name}.') if isinstance(value, dict)
                 else {prefix + name: value})
    return flat


def test_yaml_file_is_generated_from_the_dataclasses() -> None:
    text = (ROOT / 'config' / 'mapper.yaml').read_text()
    assert text == to_yaml(), (
        'run: python3 -m spann3r_ros.pipeline.node_settings > config/mapper.yaml')


def test_document_has_the_table_of_parameters() -> None:
    assert (ROOT / 'docs' / 'parameters.md').read_text().endswith('\n\n' + to_markdown()), (
        'replace the table at the end of docs/parameters.md by the output of: '
        'python3 -m spann3r_ros.pipeline.node_settings --markdown')


def test_yaml_file_holds_every_parameter_at_its_default() -> None:
    tree = yaml.safe_load((ROOT / 'config' / 'mapper.yaml').read_text())
    found = flatten(tree['/**']['ros__parameters'])
    expected = {parameter.name: parameter.default for parameter in all_settings()}
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in expected.items()}


def test_names_are_unique_and_documented() -> None:
    names = [parameter.name for parameter in all_settings()]
    assert len(names) == len(set(names))
    assert all(parameters.descriptor(parameter).description for parameter in all_settings())


def test_defaults_rebuild_the_default_settings() -> None:
    defaults = {parameter.name: parameter.default for parameter in all_settings()}
    assert from_values(defaults) == Settings()


def test_a_nested_value_reaches_its_dataclass() -> None:
    values = {parameter.name: parameter.default for parameter in all_settings()}
    values |= {'spann3r.working_frames': 7, 'mode': 'replay'}
    settings = from_values(values)
    assert settings.networks['spann3r'].working_frames == 7
    assert settings.node.mode == 'replay'


def test_former_prefix_of_a_network_is_read_with_a_warning() -> None:
    values, warnings = former_names({'memory.working_frames': 7, 'mode': 'live'})
    assert values == {'spann3r.working_frames': 7, 'mode': 'live'}
    assert warnings == ['the parameter memory.working_frames is deprecated: '
                        'use spann3r.working_frames']
    assert from_values({'memory.working_frames': 7}).networks['spann3r'].working_frames == 7
    with pytest.raises(ValueError, match='spann3r.working_frames: expected one value'):
        former_names({'memory.working_frames': 7, 'spann3r.working_frames': 8})


def test_unknown_names_are_listed() -> None:
    with pytest.raises(ValueError, match='unknown parameters: colour, mapper.x'):
        from_values({'mapper.x': 1, 'colour': 'red'})


def test_yaml_of_the_node_is_read_without_ros(tmp_path: Path) -> None:
    file = tmp_path / 'node.yaml'
    file.write_text('/**:\n  ros__parameters:\n    mode: replay\n    pose: {max_points: 99}\n'
                    'other:\n  ros__parameters: {mode: live}\n'
                    'mapper:\n  ros__parameters:\n    spann3r:\n      working_frames: 3\n')
    assert read_yaml(file) == {'mode': 'replay', 'pose.max_points': 99,
                               'spann3r.working_frames': 3}
    assert from_values(read_yaml(ROOT / 'config' / 'mapper.yaml')) == Settings()


def section(name: str, value: int = 1) -> str:
    return f'"{name}":\n  ros__parameters: {{pose: {{max_points: {value}}}}}\n'


def parameters_of_node(file: Path, node_name: str) -> dict[str, object]:
    """Return what rclpy reads for a node of this full name."""
    namespace, _, name = node_name.rpartition('/')
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '--params-file', str(file)])
    try:
        node = rclpy.node.Node(name, namespace=namespace, context=context)
        found = {name: item.value for name, item in node._parameter_overrides.items()}
        node.destroy_node()
    finally:
        context.try_shutdown()
    return found


@pytest.mark.parametrize('node_name', ['/mapper', '/robot/mapper', '/a/b/mapper'])
@pytest.mark.parametrize('text', [
    *map(section, ('/**', '**', '/*', '*', 'mapper', '/mapper', '/**/mapper', '**/mapper',
                   '/*/mapper', '/robot/mapper', 'robot/mapper', '/robot/*', '/robot/**', '/*/*',
                   '/**/robot', 'other', '/robot')),
    'robot:\n  mapper:\n    ros__parameters: {pose: {max_points: 1}}\n',
    'a:\n  b:\n    mapper:\n      ros__parameters: {pose: {max_points: 1}}\n',
    '/**:\n  mapper:\n    ros__parameters: {pose: {max_points: 1}}\n',
    section('/**/mapper') + section('/mapper', 2) + section('/**', 3),
    section('/**', 3) + section('/*/mapper', 4) + section('/mapper', 2)])
def test_sections_are_matched_as_rclpy_does(text: str, node_name: str, tmp_path: Path) -> None:
    file = tmp_path / 'node.yaml'
    file.write_text(text)
    expected = parameters_of_node(file, node_name)
    if expected:
        assert read_yaml(file, node_name) == expected
    else:
        with pytest.raises(ValueError, match=f'a section for the node {node_name}, got /'):
            read_yaml(file, node_name)


def test_parameters_of_rclpy_itself_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / 'node.yaml'
    file.write_text('/**:\n  ros__parameters:\n    use_sim_time: true\n    mode: replay\n'
                    '    qos_overrides:\n      /image: {subscription: {some: [1]}}\n')
    assert read_yaml(file) == {'mode': 'replay'}


@pytest.mark.parametrize(('text', 'reason'), [
    ('- 1', 'expected a mapping of node names'), ('a: [', 'expected YAML'),
    ('mapper: 3', 'mapper: expected a mapping with ros__parameters'),
    ('mapper: {ros__parameters: {mode: [1]}}', 'mode: expected a number')])
def test_yaml_that_is_no_parameter_file_is_refused_by_name(
        text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / 'node.yaml'
    file.write_text(text)
    with pytest.raises(ValueError, match=f'node.yaml: .*{reason}'):
        read_yaml(file)


@pytest.mark.parametrize(('name', 'value'), [
    ('mode', 'sideways'), ('max_rate', -1.0), ('map_frame', ''), ('voxel_map.max_voxels', 0)])
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    values = {parameter.name: parameter.default for parameter in all_settings()}
    values[name] = value
    with pytest.raises(ValueError, match=name.rpartition('.')[2]):
        from_values(values)


def test_descriptors_carry_the_bounds() -> None:
    found = {parameter.name: parameters.descriptor(parameter) for parameter in all_settings()}
    assert found['max_rate'].floating_point_range[0].to_value == 1000.0
    assert found['voxel_map.max_voxels'].integer_range[0].from_value == 100
    assert 'replay' in found['mode'].additional_constraints
    assert all(choice in found['precision'].additional_constraints for choice in PRECISIONS)
    assert [name for name, item in found.items() if item.read_only] == ['autostart']
    fixed = 'cannot be set while the node is configured'
    assert fixed in found['checkpoint'].additional_constraints
    assert fixed in found['spann3r.working_frames'].additional_constraints
    assert not any(fixed in found[name].additional_constraints for name in RUNNING_NAMES)


def test_every_setting_that_applies_while_running_reaches_its_user() -> None:
    """The list is written out: whoever marks another one has to hand it on."""
    assert {one.name for one in all_settings() if one.applies == RUNNING} == RUNNING_NAMES


def test_rviz_file_shows_the_outputs_in_the_map_frame() -> None:
    view = yaml.safe_load((ROOT / 'rviz' / 'mapper.rviz').read_text())['Visualization Manager']
    assert view['Global Options']['Fixed Frame'] == Settings().node.map_frame
    shown = {one['Class'].rpartition('/')[2]: one for one in view['Displays']}
    topics = {one['Topic']['Value'] for one in view['Displays'] if 'Topic' in one}
    assert topics == {'mapper/map_points', 'mapper/points', 'mapper/path', 'mapper/graph',
                      'mapper/map', 'mapper/confidence'}
    assert {'PointCloud2', 'Path', 'TF', 'Image'} <= set(shown)


def test_every_group_is_a_dataclass_field() -> None:
    groups = {parameter.name.rpartition('.')[0] for parameter in all_settings()} - {''}
    settings = Settings()
    assert all(hasattr(settings.mapper, group) or hasattr(settings.node, group)
               or group in network_kinds() for group in groups)
    assert parameters.FOREIGN[-1].endswith('.')
