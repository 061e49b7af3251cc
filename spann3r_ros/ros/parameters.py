# SPDX-License-Identifier: Apache-2.0
"""The settings of a run as parameters of the node."""
from __future__ import annotations

from collections.abc import Mapping

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from spann3r_ros.core.settings import CONFIGURE, RUNNING, START, Setting, Value
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
        value = _with_type(present.get(item.name, item.default), item)
        node.declare_parameter(item.name, value, descriptor(item), ignore_override=True)
    unknown = sorted(set(present) - {item.name for item in settings})
    if unknown:
        raise ValueError(f'unknown parameters: {", ".join(unknown)}')


def read(node: Node, changes: Mapping[str, Value] | None = None) -> Settings:
    """Return the current settings with `changes`; raise ValueError for a wrong value."""
    values = {item.name: node.get_parameter(item.name).value for item in all_settings()}
    return from_values({**values, **(changes or {})})


def change(node: Node, changes: Mapping[str, Value]) -> dict[str, Value]:
    """Return those of `changes` that differ from the present values.

    Raises ValueError if a running node cannot apply one of them, or for a wrong value.
    """
    known = {item.name: item for item in all_settings()}
    changes = {name: value for name, value in changes.items()
               if value != node.get_parameter(name).value}
    fixed = [name for name in changes if known[name].applies != RUNNING]
    if fixed:
        raise ValueError(f'{", ".join(fixed)}: read at configure; clean up the node first')
    read(node, changes)
    return changes


def with_types(changed: list[Parameter]) -> list[Parameter]:
    """Return parameters whose integers are floats where the setting is a float.

    `ros2 param set` takes a number without a point for an integer.
    """
    known = {item.name: item for item in all_settings()}
    return [one if one.name not in known else
            Parameter(one.name, value=_with_type(one.value, known[one.name])) for one in changed]


def _with_type(value: Value, item: Setting) -> Value:
    if isinstance(item.default, float) and type(value) is int:
        return float(value)
    return value


def descriptor(item: Setting) -> ParameterDescriptor:
    """Return the documentation and bounds of a setting for ROS."""
    made = ParameterDescriptor(description=item.metadata['doc'], read_only=item.applies == START)
    constraints = []
    if 'choices' in item.metadata:
        constraints.append(f'one of {item.metadata["choices"]}')
    if item.applies == CONFIGURE:
        constraints.append('cannot be set while the node is configured')
    made.additional_constraints = '; '.join(constraints)
    if 'min' not in item.metadata:
        return made
    low, high = item.metadata['min'], item.metadata['max']
    if isinstance(item.default, float):
        made.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high))]
    else:
        made.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return made
