# SPDX-License-Identifier: Apache-2.0
"""Starts the mapper on a camera or a bag, optionally with RViz and recording.

ros2 launch spann3r_ros mapper.launch.py image_topic:=/camera/image_raw
ros2 launch spann3r_ros mapper.launch.py image_topic:=/camera/image_raw bag:=/data/walk
"""
from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = Path(get_package_share_directory('spann3r_ros'))
FAST_DDS_PROFILE = 'FASTRTPS_DEFAULT_PROFILES_FILE'
OUTPUTS = ('points', 'map_points', 'confidence', 'depth/image_rect', 'depth/camera_info', 'pose',
           'odometry', 'path', 'status')
# An empty value leaves the parameter at its value in params_file.
OVERRIDES = {
    'checkpoint': 'weights (.safetensors or .pth)',
    'device': 'where the network runs: auto, cpu, cuda or cuda:N',
    'precision': 'how it computes: auto, fp32, tf32, bf16 or int8',
    'compile': 'true or false: compile the network',
    'cuda_graph': 'true or false: record the network once, on CUDA',
    'mode': 'live (a newer image replaces the waiting one) or replay (every image is used)',
    'image_transport': 'raw or compressed',
    'pose_source': 'images (poses are solved) or tf (mapping only, with poses from TF)',
    'map_frame': 'frame of the map; with pose_source tf the frame that the poses are in',
    'map_directory': 'folder of ~/save_map and ~/load_map',
    'autostart': 'true or false: configure and activate at start',
}
ARGUMENTS = {
    'image_topic': ('image', 'images; with image_transport compressed without /compressed'),
    'camera_info_topic': ('', 'calibration; empty: camera_info beside the image topic'),
    'mask_topic': ('mask', 'masks, if the parameter mask is not none'),
    'params_file': (str(SHARE / 'config' / 'mapper.yaml'), 'parameters of the node'),
    **{name: ('', f'{doc}; empty: as in params_file') for name, doc in OVERRIDES.items()},
    'namespace': ('', 'namespace of the node'),
    'use_sim_time': ('', 'true or false: time from /clock; empty: true with a bag'),
    'log_level': ('info', 'debug, info, warn or error'),
    'rviz': ('false', 'true: open RViz'),
    'rviz_config': (str(SHARE / 'rviz' / 'mapper.rviz'), 'layout of RViz'),
    'bag': ('', 'bag to play; empty: none'),
    'recording': ('', 'bag to record the outputs to; empty: none'),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the actions depend on their values."""
    declarations = [DeclareLaunchArgument(name, default_value=default, description=doc)
                    for name, (default, doc) in ARGUMENTS.items()]
    return LaunchDescription([*declarations, OpaqueFunction(function=_actions)])


def _actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: context.launch_configurations[name] for name in ARGUMENTS}
    sim_time = _is_true('use_sim_time', given['use_sim_time'] or str(bool(given['bag'])))
    # Raw images of a best-effort publisher are lost in the default shared-memory segment.
    environment = {FAST_DDS_PROFILE: os.environ.get(
        FAST_DDS_PROFILE, str(SHARE / 'config' / 'fastdds.xml'))}
    actions: list[LaunchDescriptionEntity] = [_mapper(given, sim_time, environment)]
    if _is_true('rviz', given['rviz']):
        actions.append(Node(package='rviz2', executable='rviz2',
                            arguments=['-d', given['rviz_config']],
                            parameters=[{'use_sim_time': sim_time}], additional_env=environment))
    if given['bag']:
        actions.append(ExecuteProcess(cmd=['ros2', 'bag', 'play', given['bag'], '--clock'],
                                      output='screen', additional_env=environment))
    if given['recording']:
        node = '/'.join(('', *given['namespace'].strip('/').split('/'), 'mapper'))
        topics = [f'{node.replace("//", "/")}/{topic}' for topic in OUTPUTS]
        actions.append(ExecuteProcess(
            cmd=['ros2', 'bag', 'record', '-o', given['recording'], '/tf', '/tf_static', *topics],
            output='screen', additional_env=environment))
    return actions


def _mapper(given: dict[str, str], sim_time: bool, environment: dict[str, str]) -> Node:
    parameters: dict[str, str | bool] = {
        name: given[name] for name in OVERRIDES if given[name]}
    if 'autostart' in parameters:
        parameters['autostart'] = _is_true('autostart', given['autostart'])
    beside = given['image_topic'].rpartition('/')[0]
    info = given['camera_info_topic'] or (f'{beside}/camera_info' if beside else 'camera_info')
    return Node(
        package='spann3r_ros', executable='mapper_node', name='mapper',
        namespace=given['namespace'], output='screen', emulate_tty=True,
        parameters=[given['params_file'], {'use_sim_time': sim_time, **parameters}],
        remappings=[('image', given['image_topic']), ('camera_info', info),
                    ('mask', given['mask_topic'])],
        arguments=['--ros-args', '--log-level', f'mapper:={given["log_level"]}'],
        additional_env=environment)


def _is_true(name: str, text: str) -> bool:
    value = text.lower()
    if value not in ('true', 'false'):
        raise ValueError(f'{name}: expected true or false, got {text!r}')
    return value == 'true'
