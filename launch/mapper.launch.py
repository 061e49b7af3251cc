# SPDX-License-Identifier: Apache-2.0
"""Starts the mapper on a camera or a bag, optionally with RViz, a page and recording.

ros2 launch spann3r_ros mapper.launch.py image_topic:=/camera/image_raw
ros2 launch spann3r_ros mapper.launch.py bag:=/data/walk
"""
from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from spann3r_ros.tools.launch_plan import Plan, arguments, describe_by, make_plan

SHARE = Path(get_package_share_directory('spann3r_ros'))
PROGRAMS = Path(get_package_prefix('spann3r_ros')) / 'lib' / 'spann3r_ros'
FAST_DDS_PROFILE = 'FASTRTPS_DEFAULT_PROFILES_FILE'


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the actions depend on their values."""
    declarations = [
        DeclareLaunchArgument(name, default_value=one.default, description=one.doc,
                              choices=list(one.choices) if one.choices else None)
        for name, one in arguments(SHARE).items()]
    return LaunchDescription([*declarations, OpaqueFunction(function=_actions)])


def _actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: context.launch_configurations[name] for name in arguments(SHARE)}
    plan = make_plan(given, describe_by([str(PROGRAMS / 'bag_player')]))
    # Raw images of a best-effort publisher are lost in the default shared-memory segment.
    environment = {FAST_DDS_PROFILE: os.environ.get(
        FAST_DDS_PROFILE, str(SHARE / 'config' / 'fastdds.xml'))}
    actions: list[LaunchDescriptionEntity] = [
        LogInfo(msg=plan.summary), _mapper(plan, environment)]
    if given['rviz'] == 'true':
        # The topics of the layout are relative to the namespace.
        actions.append(Node(package='rviz2', executable='rviz2', namespace=plan.namespace,
                            arguments=['-d', plan.rviz_config],
                            parameters=[{'use_sim_time': plan.use_sim_time}],
                            additional_env=environment))
    if given['view'] == 'true':
        actions.append(Node(package='spann3r_ros', executable='live_view',
                            namespace=plan.namespace, output='screen', emulate_tty=True,
                            parameters=[{'port': int(given['view_port'])}],
                            remappings=plan.remappings[:1], additional_env=environment))
    if plan.recorder is not None:
        actions.append(ExecuteProcess(cmd=['ros2', 'bag', 'record', *plan.recorder],
                                      output='screen', additional_env=environment))
    if plan.player is not None:
        actions.append(Node(
            package='spann3r_ros', executable='bag_player', namespace=plan.namespace,
            output='screen', emulate_tty=True, arguments=plan.player,
            remappings=plan.player_remappings, additional_env=environment))
    return actions


def _mapper(plan: Plan, environment: dict[str, str]) -> Node:
    return Node(
        package='spann3r_ros', executable='mapper_node', name='mapper',
        namespace=plan.namespace, output='screen', emulate_tty=True,
        parameters=[plan.params_file, plan.parameters], remappings=plan.remappings,
        arguments=['--ros-args', '--log-level', plan.log_level], additional_env=environment)
