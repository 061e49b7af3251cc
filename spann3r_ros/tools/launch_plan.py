# SPDX-License-Identifier: Apache-2.0
"""What the launch file starts, from the values of its arguments.

It runs in the process of `ros2 launch`, which may be another Python than that of the nodes and
have none of the packages that pip installs: it imports the standard library only.
"""
from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMPRESSED = '/compressed'
OUTPUTS = ('points', 'map_points', 'confidence', 'depth/image_rect', 'depth/camera_info', 'pose',
           'odometry', 'path', 'graph', 'map', 'status')
BOOLEANS = ('true', 'false')
# Parameters of the node. An empty value leaves the parameter at its value in params_file.
OVERRIDES = {
    'checkpoint': 'weights (.safetensors or .pth)',
    'device': 'where the network runs: auto, cpu, cuda or cuda:N',
    'precision': 'how it computes',
    'threads': 'CPU threads of the network; 0: by its size',
    'compile': 'compile the network',
    'cuda_graph': 'record the network once, on CUDA',
    'mode': 'live: a newer image replaces the waiting one; replay: every image is used',
    'image_transport': "type of the images; empty with a bag: the bag's",
    'mask': 'whether and how images are masked',
    'pose_source': 'images: poses are solved; tf: mapping only, with poses from TF',
    'map_frame': 'frame of the map; with pose_source tf the frame that the poses are in',
    'odom_frame': 'frame of ~/odometry, in which the pose never jumps',
    'base_frame': "the robot's base",
    'optical_frame': "frame of the images, instead of the one in each image's header",
    'publish_tf': 'which transforms the node broadcasts',
    'map_directory': 'folder of ~/save_map and ~/load_map',
    'autostart': 'configure and activate at start',
}
CHOICES = {
    'precision': ('auto', 'fp32', 'tf32', 'bf16', 'int8'),
    'compile': BOOLEANS,
    'cuda_graph': BOOLEANS,
    'mode': ('live', 'replay'),
    'image_transport': ('raw', 'compressed'),
    'mask': ('none', 'latest', 'exact'),
    'pose_source': ('images', 'tf'),
    'publish_tf': ('auto', 'odom', 'base', 'camera', 'none'),
    'autostart': BOOLEANS,
}
LOG_LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')


@dataclass(frozen=True)
class Argument:
    """A launch argument; `choices` are its possible values, none: any text."""

    default: str
    doc: str
    choices: tuple[str, ...] | None = None


def arguments(share: Path) -> dict[str, Argument]:
    """Return the launch arguments by name; `share` is the share directory of the package."""
    return {
        'image_topic': Argument('', 'images, also compressed ones without /compressed; empty: '
                                    'image, or with a bag its only image topic'),
        'camera_info_topic': Argument(
            '', 'calibration; empty: camera_info beside the image topic'),
        'mask_topic': Argument('', 'masks, if the parameter mask is not none; empty: mask, or '
                                   'with a bag mask beside the image topic'),
        'params_file': Argument(str(share / 'config' / 'mapper.yaml'), 'parameters of the node'),
        **{name: Argument('', f'{doc}; empty: as in params_file',
                          ('', *CHOICES[name]) if name in CHOICES else None)
           for name, doc in OVERRIDES.items()},
        'namespace': Argument('', 'namespace of the node'),
        'use_sim_time': Argument('', 'time from /clock; empty: true with a bag',
                                 ('', *BOOLEANS)),
        'log_level': Argument('info', 'least severity that the node logs', LOG_LEVELS),
        'rviz': Argument('false', 'open RViz', BOOLEANS),
        'rviz_config': Argument(str(share / 'rviz' / 'mapper.rviz'), 'layout of RViz'),
        'view': Argument('false', 'show the growing map in a browser of this machine',
                         BOOLEANS),
        'view_port': Argument('8090', 'port of that page on 127.0.0.1'),
        'bag': Argument('', 'bag to play, once the node is active; empty: none'),
        'recording': Argument('', 'bag to record the outputs to; empty: none'),
        'record_inputs': Argument('false', 'record the images, calibrations, masks and depth '
                                           'images too', BOOLEANS),
    }


@dataclass(frozen=True)
class BagImages:
    """The image topic of a bag and its type."""

    topic: str
    is_compressed: bool


@dataclass(frozen=True)
class Plan:
    """The parts of the launch file that depend on its arguments.

    `namespace` is that of node, player and RViz. Remappings are pairs of names. `player` are the
    arguments of bag_player and `recorder` those of `ros2 bag record`; None: it is not started.
    """

    namespace: str
    use_sim_time: bool
    log_level: str
    params_file: str
    rviz_config: str
    parameters: dict[str, str | bool]
    remappings: list[tuple[str, str]]
    player: list[str] | None
    player_remappings: list[tuple[str, str]]
    recorder: list[str] | None
    summary: str


DescribeBag = Callable[[Sequence[str]], BagImages]


def describe_by(program: Sequence[str]) -> DescribeBag:
    """Return a function that has bag_player, started by `program`, look into a bag.

    The function takes arguments of bag_player; it raises ValueError with what that finds wrong.
    """
    def describe(words: Sequence[str]) -> BagImages:
        done = subprocess.run([*program, '--describe', *words], capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f'status {done.returncode}']
            raise ValueError(lines[-1].removeprefix('bag_player: '))
        found = json.loads(done.stdout)
        return BagImages(found['topic'], found['is_compressed'])
    return describe


def make_plan(given: Mapping[str, str], describe: DescribeBag) -> Plan:
    """Return what to start; `given` has a value for each of `arguments`.

    ValueError for a file or a bag that does not exist or cannot be used.
    """
    _check_files(given)
    if not (given['view_port'].isdigit() and int(given['view_port']) < 2**16):
        raise ValueError('view_port: expected a number from 0 to 65535, '
                         f'got {given["view_port"]!r}')
    namespace = given['namespace'].strip('/')
    node = f'/{namespace}/mapper' if namespace else '/mapper'
    topic, transport = given['image_topic'] or 'image', given['image_transport']
    mask = given['mask_topic'] or 'mask'
    player, player_remappings = None, []
    sim_time = (given['use_sim_time'] or str(bool(given['bag'])).lower()) == 'true'
    if given['bag']:
        images = _choose_images(given, describe)
        transport = 'compressed' if images.is_compressed else 'raw'
        topic = images.topic.removesuffix(COMPRESSED)
        if images.is_compressed and not images.topic.endswith(COMPRESSED):
            player_remappings = [(images.topic, images.topic + COMPRESSED)]
        # The player asks the node for its mode.
        player = [*_bag_words(given, images.topic), '--follow', '--quiet',
                  *(['--clock'] if sim_time else [])]
        mask = given['mask_topic'] or f'{topic.rpartition("/")[0]}/mask'
    beside = topic.rpartition('/')[0]
    info = given['camera_info_topic'] or (f'{beside}/camera_info' if beside else 'camera_info')
    return Plan(
        namespace=namespace, use_sim_time=sim_time,
        log_level=f'{node[1:].replace("/", ".")}:={given["log_level"]}',
        params_file=str(Path(given['params_file']).expanduser()),
        rviz_config=str(Path(given['rviz_config']).expanduser()),
        parameters={**_parameters(given), 'use_sim_time': sim_time,
                    **({'image_transport': transport} if transport else {})},
        remappings=[('image', topic), ('camera_info', info), ('mask', mask)],
        player=player, player_remappings=player_remappings,
        recorder=_recorder(given, node, sim_time, _inputs(topic, transport, info, mask)),
        summary=f'{node} loads its weights, then waits for images on {topic}'
                f'{COMPRESSED if transport == "compressed" else ""}')


def _check_files(given: Mapping[str, str]) -> None:
    wanted = {'params_file': Path.is_file, 'checkpoint': Path.is_file, 'bag': Path.exists}
    if given['rviz'] == 'true':
        wanted['rviz_config'] = Path.is_file
    for name, exists in wanted.items():
        if given[name] and not exists(Path(given[name]).expanduser()):
            kind = 'a bag' if name == 'bag' else 'a file'
            raise ValueError(f'{name}: expected {kind}, there is no {given[name]}')
    recording = given['recording']
    if given['record_inputs'] == 'true' and not recording:
        raise ValueError('record_inputs: expected a bag in the argument recording, got none')
    if recording and Path(recording).expanduser().exists():
        raise ValueError(f'recording: expected a folder that does not exist, got {recording}')


def _choose_images(given: Mapping[str, str], describe: DescribeBag) -> BagImages:
    """Return the images of the bag that the arguments mean."""
    topic, transport = given['image_topic'], given['image_transport']
    if topic and transport == 'compressed' and not topic.endswith(COMPRESSED):
        topic += COMPRESSED
    images = describe(_bag_words(given, topic))
    kind = 'compressed' if images.is_compressed else 'raw'
    if transport not in ('', kind):
        raise ValueError(f'image_transport: expected {kind}, as {images.topic} in the bag, '
                         f'got {transport}')
    return images


def _parameters(given: Mapping[str, str]) -> dict[str, str | bool]:
    values: dict[str, str | bool] = {}
    for name in OVERRIDES:
        if not given[name]:
            continue
        values[name] = given[name] == 'true' if CHOICES.get(name) == BOOLEANS else given[name]
    if given['checkpoint']:
        values['checkpoint'] = str(Path(given['checkpoint']).expanduser())
    return values


def _bag_words(given: Mapping[str, str], topic: str) -> list[str]:
    """Return the arguments of bag_player that name the bag and its topics."""
    words = ['--bag', str(Path(given['bag']).expanduser()), '--topic', topic]
    if given['camera_info_topic']:
        words += ['--camera-info-topic', given['camera_info_topic']]
    if given['mask_topic']:
        words += ['--mask-topic', given['mask_topic']]
    return words


def _inputs(topic: str, transport: str, info: str, mask: str) -> list[str]:
    """Return the topics that the node subscribes to; only params_file may know the transport."""
    images = {'raw': [topic], 'compressed': [topic + COMPRESSED]}
    return [*images.get(transport, [topic, topic + COMPRESSED]), info, mask, 'depth']


def _recorder(given: Mapping[str, str], node: str, sim_time: bool,
              inputs: Sequence[str]) -> list[str] | None:
    if not given['recording']:
        return None
    clock = ['--use-sim-time'] if sim_time else []
    topics = ['/tf', '/tf_static', '/diagnostics', *(f'{node}/{topic}' for topic in OUTPUTS)]
    if given['record_inputs'] == 'true':
        # Relative names are in the namespace of the node.
        place = node.rpartition('/')[0]
        topics += [one if one.startswith('/') else f'{place}/{one}' for one in inputs]
    return ['-o', str(Path(given['recording']).expanduser()), *clock, '--topics', *topics]
