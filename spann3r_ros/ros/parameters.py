# SPDX-License-Identifier: Apache-2.0
"""The settings of a run as parameters of the node."""
from __future__ import annotations

from collections.abc import Mapping

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from spann3r_ros.core.settings import Setting, Value
from spann3r_ros.pipeline.node_settings import (
    FOREIGN,
    Settings,
    all_settings,
    former_names,
    from_values,
)


def declare(node: Node) -> None:
    """Declare every parameter; raise ValueError for given parameters that do not exist.

    A value given under the former name of a parameter is used, with a warning.
    """
    given = {name: item.value for name, item in node._parameter_overrides.items()  # no public list
             if not name.startswith(FOREIGN)}
    present, warnings = former_names(given)
    for warning in warnings:
        node.get_logger().warning(warning)
    settings = all_settings()
    for item in settings:
        value = present.get(item.name, item.default) if item.name not in given else item.default
        node.declare_parameter(item.name, value, descriptor(item))
    unknown = sorted(set(present) - {item.name for item in settings})
    if unknown:
        raise ValueError(f'unknown parameters: {", ".join(unknown)}')


def read(node: Node, changes: Mapping[str, Value] | None = None) -> Settings:
    """Return the current settings with `changes`; raise ValueError for a wrong value."""
    values = {item.name: node.get_parameter(item.name).value for item in all_settings()}
    return from_values({**values, **(changes or {})})


def descriptor(item: Setting) -> ParameterDescriptor:
    """Return the documentation and bounds of a setting for ROS."""
    made = ParameterDescriptor(description=item.metadata['doc'])
    if 'choices' in item.metadata:
        made.additional_constraints = f'one of {item.metadata["choices"]}'
    if 'min' not in item.metadata:
        return made
    low, high = item.metadata['min'], item.metadata['max']
    if isinstance(item.default, float):
        made.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high))]
    else:
        made.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return made
