# SPDX-License-Identifier: Apache-2.0
"""All settings of a run: the parameters of the node, which a replay reads from the node's YAML.

Names, defaults and bounds come from the dataclasses. The settings of a network have its name as a
prefix.
"""
from __future__ import annotations

import json
import logging
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from spann3r_ros.core.network import Compute
from spann3r_ros.core.settings import (
    RUNNING,
    START,
    Setting,
    Value,
    check_settings,
    list_settings,
    rebuild,
    setting,
)
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.networks.kind import NetworkKind
from spann3r_ros.networks.registry import network_kinds
from spann3r_ros.networks.threads import MAX_THREADS

from .image_clock import STAMP_SOURCES, TIME_JUMPS
from .sync.mask_sync import MODES as MASK_MODES
from .sync.pose_sync import SOURCES as POSE_SOURCES

LINE_WIDTH = 99
# Parameters that rclpy declares itself, some of them for a subscription with overridable QoS.
FOREIGN = ('use_sim_time', 'start_type_description_service', 'qos_overrides.')

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiagnosticsConfig:
    """Thresholds of the warnings in /diagnostics."""

    stale_after_sec: float = setting(
        2.0, 'Warn when an active node received no image for longer', 0.1, 3600.0, applies=RUNNING)
    max_dropped_share: float = setting(
        0.9, 'Warn when a larger share of the images of the last seconds was dropped; live mode '
        'drops images when the device is too slow for their rate', 0.0, 1.0, applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class NodeConfig:
    """The settings of the node beside those of the mapper."""

    checkpoint: str = setting('', 'Weights, a .safetensors or .pth file; empty: the bundled model')
    device: str = setting('auto', 'Where the network runs: auto, cpu, cuda or cuda:N')
    precision: str = setting(
        'auto', 'How the network computes. fp32: float32; tf32: CUDA only, the factors of '
        'products are rounded to 10 bits; bf16: the blocks in bfloat16, and on a CPU with '
        'bfloat16 instructions also the convolutions of dense heads; int8: CPU only, the products '
        'of the linear layers in 8 bits, those convolutions as with bf16. bf16 and int8 are for '
        'large networks; all but fp32 reduce the accuracy. auto: fp32 on a CPU, tf32 on CUDA',
        choices=('auto', 'fp32', 'tf32', 'bf16', 'int8'))
    threads: int = setting(
        0, 'CPU threads of the network. 0: OMP_NUM_THREADS if that is set, else one for a network '
        'of less than 50 million weights, as the bundled one, and one a core for a larger one. '
        'Maps are the same, bit by bit, for the same number of threads only', 0, MAX_THREADS)
    compile: bool = setting(
        False, 'Compile the network; this takes a minute at configure and needs a C++ compiler')
    cuda_graph: bool = setting(
        False, 'On CUDA, record a step once and replay it; never run on a device so far')
    mode: str = setting(
        'live', 'live: a newer image replaces the waiting one, which is dropped; replay: every '
        'image is used, none is dropped', choices=('live', 'replay'))
    image_transport: str = setting(
        'raw', 'Type of the image topic; compressed subscribes to <image>/compressed',
        choices=('raw', 'compressed'))
    mask: str = setting(
        'none', 'Whether images are masked by the topic mask (mono8; pixels with 0 are left out '
        "of the map). latest: by the newest mask, in replay mode the newest that is not after the "
        "image; exact: by the mask of the image's stamp, for which the image waits",
        choices=MASK_MODES)
    time_jump: str = setting(
        'fragment', 'What happens when the stamps of three images in a row are back by a second '
        'or more (a slow camera: three steps), for example when a bag is played again. fragment: '
        'a fragment of the same map begins; reset: a new map begins; refuse: the images are '
        'rejected', choices=TIME_JUMPS, applies=RUNNING)
    stamp_source: str = setting(
        'header', 'Where the time of an image, calibration or mask comes from. header: its '
        'stamp; receipt: when the node received it, or when it was recorded, for drivers that set '
        'no stamp', choices=STAMP_SOURCES)
    pose_source: str = setting(
        'images', "images: the camera's pose is solved; tf: it is taken from TF at the image's "
        'stamp (map_frame -> optical frame, published by a localisation of your own): mapping '
        'only, in metres, without odometry and broadcasts', choices=POSE_SOURCES)
    pose_timeout_sec: float = setting(
        0.5, 'How long an image waits for its pose from TF, or for odometry or depth that give '
        'the scale (scale.source); in live mode the newest 30 wait',
        0.0, 60.0, applies=RUNNING)
    max_rate: float = setting(
        0.0, 'Most images per second of image time that are used; 0: all', 0.0, 1000.0,
        applies=RUNNING)
    image_rectified: bool = setting(
        False, 'The images have no distortion: P of camera_info is their calibration, not K and D')
    camera_info_timeout_sec: float = setting(
        1.0, 'A calibration is used if its stamp is this close to the image; 0: no limit. A map '
        'keeps the calibration of its first image',
        0.0, 3600.0, applies=RUNNING)
    map_frame: str = setting('map', 'Frame of map, clouds and poses: z up, x forward')
    odom_frame: str = setting('odom', 'Frame of ~/odometry, in which the pose never jumps')
    base_frame: str = setting(
        'base_link', "The robot's base; if TF connects it with the camera, it levels the map and "
        'gives its origin (map_origin)')
    optical_frame: str = setting('', "Frame of the images; empty: the one in each image's header")
    publish_tf: str = setting(
        'auto', 'odom: map -> odom, if the robot publishes odom -> base; base: map -> odom -> '
        'base; camera: map -> odom -> optical frame; none; auto: camera while TF does not connect '
        'camera and base, base while the robot has no odometry, otherwise odom; it changes in '
        'this order when TF shows more of the robot',
        choices=('auto', 'odom', 'base', 'camera', 'none'))
    transform_tolerance_sec: float = setting(
        0.2, 'How far in the future map -> odom is stamped when it is repeated, so that those who '
        'look up the present find it', 0.0, 60.0, applies=RUNNING)
    tf_publish_period_sec: float = setting(
        0.05, 'Live, transforms are repeated with this period, at most 50 times a second; 0: '
        'they are sent with each pose only, as in replay mode', 0.0, 60.0, applies=RUNNING)
    odom_hold_sec: float = setting(
        5.0, 'Live, how long after a pose odom -> base (or odom -> optical frame), if the node '
        'publishes it, is repeated with the present time; while the mapping is paused without '
        'end; 0: it is not repeated', 0.0, 86400.0, applies=RUNNING)
    level_timeout_sec: float = setting(
        0.5, 'Live, how long the first images wait until TF connects camera and base, which '
        'levels the map and gives its origin (map_origin), if another node publishes TF; 0: they '
        'do not wait', 0.0, 60.0)
    map_origin: str = setting(
        'base', 'Where a map begins if TF connects camera and base at its first image. base: at '
        'the base, x along its forward; camera: at the camera, x along its horizontal view',
        choices=('base', 'camera'))
    invert_tf: bool = setting(
        False, 'Publish the inverse of each transform: the map is then a child of the robot')
    map_publish_period_sec: float = setting(
        1.0, 'Least time between two messages on ~/map_points, ~/path and ~/graph; it is made '
        'longer if publishing would take more than 5 % of it; 0: with every keyframe', 0.0, 3600.0,
        applies=RUNNING)
    max_cloud_bytes: int = setting(
        8_000_000, 'Largest message on ~/points and ~/map_points; a larger cloud is thinned out. '
        'Bridges to viewers drop messages that are much larger',
        1000, 2**31 - 1, applies=RUNNING)
    max_waiting_bytes: int = setting(
        256_000_000, 'Most bytes of images that wait for a calibration, of those that wait for a '
        'mask, of those that wait for a pose, of those that wait for others with a stamp or a '
        'size like theirs, and of masks that wait for an image; beyond, the oldest are dropped, '
        'or go on without a calibration', 1_000_000, 2**40)
    map_directory: str = setting(
        '~/.ros/spann3r_ros', 'Folder of ~/save_map and ~/load_map', applies=RUNNING)
    autostart: bool = setting(
        True, 'Configure and activate at start; false: a lifecycle manager does it', applies=START)

    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ('map_frame', 'odom_frame', 'base_frame'):
            # tf2 refuses names that begin with a slash.
            object.__setattr__(self, name, getattr(self, name).removeprefix('/'))
            if not getattr(self, name):
                raise ValueError(f'NodeConfig.{name}: expected a frame name, got an empty string')
        names = (self.map_frame, self.odom_frame, self.base_frame)
        # Poses from TF may be in any frame: the node does not publish the other frames then.
        if self.pose_source == 'images' and len(set(names)) < len(names):
            raise ValueError('map_frame, odom_frame, base_frame: expected different names, '
                             f'got {names}')
        if self.stamp_source == 'receipt' and self.mask == 'exact':
            raise ValueError('NodeConfig.mask: expected none or latest with the time of receipt '
                             "(stamp_source), got 'exact', which compares stamps")
        if self.pose_source == 'tf' and self.publish_tf not in ('auto', 'none'):
            raise ValueError('NodeConfig.publish_tf: expected auto or none with poses from TF, '
                             f'got {self.publish_tf!r}')

    @property
    def compute(self) -> Compute:
        """Return the settings of the device and the precision."""
        return Compute(self.device, self.precision, self.compile, self.cuda_graph,
                       self.threads)


def default_networks() -> dict[str, Any]:
    """Return the default settings of every network that can be set, by its name."""
    return {kind.name: kind.settings() for kind in _kinds_with_settings()}


@dataclass(frozen=True)
class Settings:
    """All settings; `networks` has those of every network that can be set, by its name."""

    node: NodeConfig = field(default_factory=NodeConfig)
    mapper: MapperConfig = field(default_factory=MapperConfig)
    networks: Mapping[str, Any] = field(default_factory=default_networks)


def all_settings(settings: Settings | None = None) -> list[Setting]:
    """Return every setting with its default, in the order of the dataclasses.

    With `settings`, the value is theirs instead of the default.
    """
    settings = settings or Settings()
    found = [*list_settings(settings.node), *list_settings(settings.mapper)]
    for name, config in settings.networks.items():
        found += list_settings(config, f'{name}.')
    return found


def _kinds_with_settings() -> list[NetworkKind]:
    """Return the registered networks whose prefixes are not names of node or mapper settings."""
    taken = {item.name.partition('.')[0] for config in (NodeConfig(), MapperConfig())
             for item in list_settings(config)}
    kinds = []
    for kind in network_kinds().values():
        clash = taken.intersection((kind.name, *kind.former_prefixes))
        if clash:
            _warn_without_settings(kind.name, min(clash))
        else:
            kinds.append(kind)
    return kinds


@cache
def _warn_without_settings(name: str, prefix: str) -> None:
    logger.warning('the settings of the network %s are left out: the node has parameters of the '
                   'name %s; the network runs with its defaults', name, prefix)


def from_values(values: Mapping[str, Value]) -> Settings:
    """Return settings with values given by name and defaults; raise ValueError for a wrong one."""
    values = {name: value for name, value in former_names(values)[0].items()}
    unknown = sorted(set(values) - {item.name for item in all_settings()})
    if unknown:
        raise ValueError(f'unknown parameters: {", ".join(unknown)}')
    settings = Settings()
    return Settings(rebuild(settings.node, values), rebuild(settings.mapper, values),
                    {name: rebuild(config, values, f'{name}.')
                     for name, config in settings.networks.items()})


def former_names(values: Mapping[str, Value]) -> tuple[dict[str, Value], list[str]]:
    """Return values under their present names, and a warning for each former name.

    Raises ValueError for a setting that is given under both of its names.
    """
    prefixes = {f'{former}.': f'{kind.name}.' for kind in _kinds_with_settings()
                for former in kind.former_prefixes}
    present, warnings = {}, []
    for name, value in values.items():
        new = next((prefix + name.removeprefix(former) for former, prefix in prefixes.items()
                    if name.startswith(former)), name)
        if new != name:
            if new in values:
                raise ValueError(f'{new}: expected one value, got another under its former '
                                 f'name {name}')
            warnings.append(f'the parameter {name} is deprecated: use {new}')
        present[new] = value
    return present, warnings


def read_yaml(path: Path, node_name: str = 'mapper') -> dict[str, Value]:
    """Return the parameters in a ROS parameter file for a node, by their full names.

    `node_name` may begin with a namespace. Sections are matched as rcl does: `*` is one name, `**`
    any number of them, namespaces may be nested, and a later section overrides an earlier one.
    Parameters that rclpy declares itself are left out. Raises ValueError with the file and its
    fault, also if no section is for the node.
    """
    import yaml
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: expected YAML: {" ".join(str(error).split())}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected a mapping of node names, '
                         f'got {type(content).__name__}')
    values: dict[str, Value] = {}
    name, names, found = '/' + node_name.strip('/'), [], False
    for pattern, parameters in _sections(content, '', path):
        names.append(pattern)
        if _matches(pattern, name):
            found = True
            values |= _flat(parameters, '', path)
    if not found:
        raise ValueError(f'{path}: expected a section for the node {name}, '
                         f'got {", ".join(names) or "none"}')
    return values


def _sections(content: Mapping[Any, Any], above: str,
              path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the full name, which may contain wildcards, and the parameters of every section."""
    for name, section in content.items():
        full = f'{above}/{str(name).strip("/")}'
        if not isinstance(section, dict) or not section or not isinstance(
                section.get('ros__parameters', {}), dict):
            raise ValueError(f'{path}: {full}: expected a mapping with ros__parameters')
        if 'ros__parameters' in section:
            yield full, section['ros__parameters']
        yield from _sections({inner: value for inner, value in section.items()
                              if inner != 'ros__parameters'}, full, path)


def _matches(pattern: str, name: str) -> bool:
    """Return whether a section with this name is for the node with the full name `name`."""
    wildcards = {'*': '/[^/]+', '**': '(/[^/]+)*'}
    parts = [wildcards.get(part, '/' + re.escape(part)) for part in pattern[1:].split('/')]
    return re.fullmatch(''.join(parts), name) is not None


def parse_values(texts: Sequence[str]) -> dict[str, Value]:
    """Return the values of texts NAME=VALUE, each converted to the type of its setting.

    Raises ValueError for a text of another form, an unknown name or a value of another type.
    """
    known = {item.name: type(item.default) for item in all_settings()}
    values: dict[str, Value] = {}
    for text in texts:
        given, equals, value = text.partition('=')
        name = next(iter(former_names({given: value})[0]))
        if not equals or name not in known:
            raise ValueError(f'set: expected NAME=VALUE with the name of a parameter, '
                             f'got {text!r}')
        kind = known[name]
        try:
            values[name] = {'true': True, 'false': False}[value] if kind is bool else kind(value)
        except (KeyError, ValueError) as error:
            raise ValueError(f'set: {name}: expected a value of type {kind.__name__}, '
                             f'got {value!r}') from error
    return values


def _flat(section: Mapping[str, Any], prefix: str, path: Path) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in section.items():
        if f'{prefix}{name}'.startswith(FOREIGN):
            continue
        if isinstance(value, dict):
            found |= _flat(value, f'{prefix}{name}.', path)
        elif isinstance(value, (bool, int, float, str)):
            found[prefix + str(name)] = value
        else:
            raise ValueError(f'{path}: {prefix}{name}: expected a number, a text or true or '
                             f'false, got {value!r}')
    return found


def to_yaml() -> str:
    """Return `config/mapper.yaml`: every parameter with a comment and its default."""
    lines = [
        '# SPDX-License-Identifier: Apache-2.0',
        '# Every parameter of mapper_node with its default. Generated from the dataclasses by',
        '#   python3 -m spann3r_ros.pipeline.node_settings > config/mapper.yaml',
        '/**:', '  ros__parameters:']
    opened: list[str] = []
    for item in all_settings():
        *groups, name = item.name.split('.')
        for depth, group in enumerate(groups):
            if opened[depth:depth + 1] != [group]:
                lines.append(f'{_indent(depth)}{group}:')
        opened = groups
        indent = _indent(len(groups))
        text = item.metadata['doc'] + item.bounds_text()
        lines += textwrap.wrap(text, LINE_WIDTH - len(indent) - 2,
                               initial_indent=f'{indent}# ', subsequent_indent=f'{indent}#   ')
        lines.append(f'{indent}{name}: {json.dumps(item.default)}')
    return '\n'.join(lines) + '\n'


def to_markdown() -> str:
    """Return the table of parameters in `docs/parameters.md`."""
    rows = [f'| `{item.name}` | `{json.dumps(item.default)}` | {item.applies} | '
            f'{item.metadata["doc"]}{item.bounds_text()} |' for item in all_settings()]
    return '\n'.join(['| parameter | default | applied | meaning |', '|---|---|---|---|',
                      *rows]) + '\n'


def _indent(depth: int) -> str:
    return '  ' * (depth + 2)


if __name__ == '__main__':
    sys.stdout.write(to_markdown() if sys.argv[1:] == ['--markdown'] else to_yaml())
