# SPDX-License-Identifier: Apache-2.0
"""Parameters of the mapper node: names, defaults and bounds are those of the dataclasses."""
from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from spann3r_ros.core.network import Compute
from spann3r_ros.core.settings import check_settings, setting
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.pipeline.image_clock import CHOICES as TIME_JUMPS
from spann3r_ros.pipeline.mask_sync import MODES as MASK_MODES
from spann3r_ros.pipeline.pose_sync import SOURCES as POSE_SOURCES

Config = TypeVar('Config')
LINE_WIDTH = 99
Value = bool | int | float | str

# Declared by rclpy itself, or when a subscription with overridable QoS is created.
FOREIGN = ('use_sim_time', 'start_type_description_service', 'qos_overrides.')


@dataclass(frozen=True)
class DiagnosticsConfig:
    """When /diagnostics warns."""

    stale_after_sec: float = setting(
        2.0, 'Warn when an active node has got no image for longer', 0.1, 3600.0)
    max_dropped_share: float = setting(
        0.9, 'Warn when more of the images of the last seconds were dropped; live mode drops '
        'what the device cannot keep up with', 0.0, 1.0)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class NodeConfig:
    """What the node adds to the mapper's own configuration."""

    checkpoint: str = setting('', 'Weights, a .safetensors or .pth file; empty: the bundled model')
    device: str = setting('auto', 'Where the network runs: auto, cpu, cuda or cuda:N')
    precision: str = setting(
        'auto', 'How the network computes. fp32; tf32: CUDA only, products at 10 bits; bf16: the '
        'blocks in bfloat16, on a CPU that has it the convolutions of dense heads too; int8: CPU '
        'only, the products of the linear layers in 8 bits, those convolutions as with bf16. '
        'The last two are for large networks; all but fp32 cost accuracy. '
        'auto: fp32 on a CPU, tf32 on CUDA',
        choices=('auto', 'fp32', 'tf32', 'bf16', 'int8'))
    compile: bool = setting(
        False, 'Compile the network, which takes a minute at configure and needs a C++ compiler')
    cuda_graph: bool = setting(
        False, 'On CUDA, record a step once and replay it; never run on a device so far')
    mode: str = setting(
        'live', 'live: the newest image wins; replay: every image is used, none is dropped',
        choices=('live', 'replay'))
    image_transport: str = setting(
        'raw', 'Type of the image topic; compressed listens to <image>/compressed',
        choices=('raw', 'compressed'))
    mask: str = setting(
        'none', 'Whether images are masked by the topic mask (mono8, 0: stays out of the map). '
        "latest: by the newest mask; exact: by the mask of the image's stamp, which the image "
        'waits for', choices=MASK_MODES)
    time_jump: str = setting(
        'reset', 'When the stamps of the images jump back by a second or more, as those of a bag '
        'that is played again: begin a new map, or refuse the images', choices=TIME_JUMPS)
    pose_source: str = setting(
        'images', "images: the camera's pose is solved; tf: it is what TF says at the image's "
        'stamp (map_frame -> optical frame, from a localisation of your own): mapping only, in '
        'metres, without odometry and broadcasts', choices=POSE_SOURCES)
    pose_timeout_sec: float = setting(
        0.5, 'How long an image waits for its pose from TF; in live mode the newest 30 wait',
        0.0, 60.0)
    max_rate: float = setting(
        0.0, 'Most images per second of image time that are taken; 0: all', 0.0, 1000.0)
    image_rectified: bool = setting(
        False, "Images come without distortion: camera_info's P is theirs, not K and D")
    camera_info_timeout_sec: float = setting(
        1.0, 'Calibration is used when stamped this close to the image; 0: however old',
        0.0, 3600.0)
    map_frame: str = setting('map', 'Frame of map, clouds and poses: z up, x forward')
    odom_frame: str = setting('odom', 'Frame of ~/odometry, in which nothing ever jumps')
    base_frame: str = setting(
        'base_link', 'The robot; where TF connects it with the camera, the map is levelled by it')
    optical_frame: str = setting('', "Frame of the images; empty: the one in each image's header")
    publish_tf: str = setting(
        'auto', 'odom: map -> odom, where the robot owns odom -> base; base: map -> odom -> base; '
        'camera: map -> optical frame; none; auto: the first of these that TF, at the first pose, '
        'leaves room for, and odom once there is odometry',
        choices=('auto', 'odom', 'base', 'camera', 'none'))
    invert_tf: bool = setting(
        False, 'Publish the inverse of each transform: the map then hangs below the robot')
    map_publish_period_sec: float = setting(
        1.0, 'Least time between two messages on ~/map_points and ~/path, longer where telling '
        'them would take more than 5 % of it; 0: with every keyframe', 0.0, 3600.0)
    max_cloud_bytes: int = setting(
        10_000_000, 'Largest cloud on ~/points and ~/map_points; a larger one is sent thinned',
        1000, 2**31 - 1)
    map_directory: str = setting('~/.ros/spann3r_ros', 'Folder of ~/save_map and ~/load_map')
    autostart: bool = setting(
        True, 'Configure and activate at start; false: leave it to a lifecycle manager')

    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ('map_frame', 'odom_frame', 'base_frame'):
            if not getattr(self, name):
                raise ValueError(f'NodeConfig.{name}: expected a frame name, got an empty string')
        names = (self.map_frame, self.odom_frame, self.base_frame)
        # Poses that come from TF may be in any frame; nothing is told of the others then.
        if self.pose_source == 'images' and len(set(names)) < len(names):
            raise ValueError('map_frame, odom_frame, base_frame: expected different names, '
                             f'got {names}')
        if self.pose_source == 'tf' and self.publish_tf not in ('auto', 'none'):
            raise ValueError('NodeConfig.publish_tf: expected auto or none with poses from TF, '
                             f'got {self.publish_tf!r}')

    @property
    def compute(self) -> Compute:
        """Return where and how the network computes."""
        return Compute(self.device, self.precision, self.compile, self.cuda_graph)


@dataclass(frozen=True)
class Settings:
    """Everything the parameters say at one moment."""

    node: NodeConfig = field(default_factory=NodeConfig)
    mapper: MapperConfig = field(default_factory=MapperConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)


@dataclass(frozen=True)
class Parameter:
    """One parameter as its dataclass field declares it."""

    name: str
    default: Value
    metadata: Mapping[str, Any]

    def descriptor(self) -> ParameterDescriptor:
        """Return documentation and bounds as ROS shows them."""
        descriptor = ParameterDescriptor(description=self.metadata['doc'])
        if 'choices' in self.metadata:
            descriptor.additional_constraints = f'one of {self.metadata["choices"]}'
        if 'min' not in self.metadata:
            return descriptor
        low, high = self.metadata['min'], self.metadata['max']
        if isinstance(self.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        return descriptor

    def bounds_text(self) -> str:
        """Return the bounds in brackets, or nothing."""
        if 'min' not in self.metadata:
            return ''
        return f' [{self.metadata["min"]}..{self.metadata["max"]}]'


def all_parameters() -> list[Parameter]:
    """Return every parameter of the node, in the order of the dataclasses."""
    settings = Settings()
    return [*_walk(settings.node, ''), *_walk(settings.mapper, ''),
            *_walk(settings.memory, 'memory.')]


def declare(node: Node) -> None:
    """Declare every parameter; ValueError names those given from outside that do not exist."""
    parameters = all_parameters()
    for parameter in parameters:
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
    known = {parameter.name for parameter in parameters}
    unknown = sorted(name for name in node._parameter_overrides  # rclpy offers no public list
                     if name not in known and not name.startswith(FOREIGN))
    if unknown:
        raise ValueError(f'unknown parameters: {", ".join(unknown)}')


def read(node: Node, changes: Mapping[str, Value] | None = None) -> Settings:
    """Return the node's present settings with `changes` applied; ValueError says what is wrong."""
    changes = changes or {}

    def value(name: str) -> Value:
        return changes[name] if name in changes else node.get_parameter(name).value

    return from_values(value)


def from_values(value: Callable[[str], Value]) -> Settings:
    """Build settings from a function that gives the value of each parameter name."""
    defaults = Settings()
    return Settings(_rebuild(defaults.node, '', value), _rebuild(defaults.mapper, '', value),
                    _rebuild(defaults.memory, 'memory.', value))


def to_yaml() -> str:
    """Return `config/mapper.yaml`: every parameter, commented, at its default."""
    lines = [
        '# SPDX-License-Identifier: Apache-2.0',
        '# Every parameter of mapper_node at its default. Written from the dataclasses by',
        '#   python3 -m spann3r_ros.ros.parameters > config/mapper.yaml',
        '/**:', '  ros__parameters:']
    opened: list[str] = []
    for parameter in all_parameters():
        *groups, name = parameter.name.split('.')
        for depth, group in enumerate(groups):
            if opened[depth:depth + 1] != [group]:
                lines.append(f'{_indent(depth)}{group}:')
        opened = groups
        indent = _indent(len(groups))
        text = parameter.metadata['doc'] + parameter.bounds_text()
        lines += textwrap.wrap(text, LINE_WIDTH - len(indent) - 2,
                               initial_indent=f'{indent}# ', subsequent_indent=f'{indent}#   ')
        lines.append(f'{indent}{name}: {json.dumps(parameter.default)}')
    return '\n'.join(lines) + '\n'


def to_markdown() -> str:
    """Return the README's table of parameters."""
    rows = [f'| `{item.name}` | `{json.dumps(item.default)}` | '
            f'{item.metadata["doc"]}{item.bounds_text()} |' for item in all_parameters()]
    return '\n'.join(['| parameter | default | meaning |', '|---|---|---|', *rows]) + '\n'


def _indent(depth: int) -> str:
    return '  ' * (depth + 2)


def _walk(config: object, prefix: str) -> Iterator[Parameter]:
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from _walk(value, f'{prefix}{item.name}.')
        else:
            yield Parameter(prefix + item.name, value, item.metadata)


def _rebuild(config: Config, prefix: str, value: Callable[[str], Value]) -> Config:
    values = {}
    for item in fields(config):
        default = getattr(config, item.name)
        values[item.name] = (_rebuild(default, f'{prefix}{item.name}.', value)
                             if is_dataclass(default) else value(prefix + item.name))
    return replace(config, **values)


if __name__ == '__main__':
    sys.stdout.write(to_markdown() if sys.argv[1:] == ['--markdown'] else to_yaml())
