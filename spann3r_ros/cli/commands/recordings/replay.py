# SPDX-License-Identifier: Apache-2.0
"""`spann3r replay`: maps a recorded bag without ROS, with the same result as the node."""
from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spann3r_ros.datasets.bags import CameraBag
    from spann3r_ros.pipeline.bag_replay import Replay, ReplaySummary
    from spann3r_ros.pipeline.node_settings import Settings

SUMMARY = 'map a recorded bag without ROS: every image is used, none is dropped'
BAD_INPUT, FAULT = 2, 1
LOG, SUMMARY_FILE = 'replay.log', 'summary.json'
EPILOG = """\
Writes the directory map, report.html, replay.log and summary.json. Exit status: 0 with a map, 2
for bad input, 1 for a fault or an empty map. The same bag and settings give the same map, bit by
bit, on the same machine with the same number of threads; the node in replay mode gives that map
too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument('bag', type=Path, help='rosbag2 folder or file')
    parser.add_argument('--topic', default='',
                        help='image topic; default: that of the only camera')
    parser.add_argument('--camera-info-topic', default='', metavar='TOPIC',
                        help='default: camera_info beside the image topic')
    parser.add_argument('--mask-topic', default='', metavar='TOPIC',
                        help='masks, used if the parameter mask is not none; default: mask beside '
                             'the image topic')
    parser.add_argument('--depth-topic', default='', metavar='TOPIC',
                        help='depth images, used with scale.source=depth; default: depth beside '
                             'the image topic')
    parser.add_argument('--odometry-topic', default='', metavar='TOPIC',
                        help='nav_msgs/Odometry to use as transforms, if they are not in TF')
    parser.add_argument('--params-file', type=Path, help="the node's parameters as YAML")
    parser.add_argument('--node-name', default='mapper',
                        help='node that has the parameters in that file, with its namespace if it '
                             'has one (default: %(default)s)')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', dest='changes',
                        help='a parameter, which overrides the file; may be repeated')
    parser.add_argument('--checkpoint', help='weights; default: the parameter, or the bundled '
                                             'model')
    parser.add_argument('--device', help='auto, cpu, cuda or cuda:N; default: the parameter')
    parser.add_argument('--output', type=Path, default=Path('output'),
                        help='folder of the results (default: %(default)s)')
    parser.add_argument('--view', action='store_true',
                        help='show the growing map in a browser of this machine')
    parser.add_argument('--view-port', type=int, default=8090, metavar='PORT',
                        help='of the page; 0: any free one (default: %(default)s)')
    parser.add_argument('--save-every', type=int, default=0, metavar='IMAGES',
                        help='also write the map after every so many images, so that --resume '
                             'can go on from there; 0: only at the end (default: %(default)s)')
    parser.add_argument('--resume', type=Path, metavar='FOLDER',
                        help='continue the map in this folder, the output of a replay or the '
                             "node's map_directory: images of the bag that it has are left out")
    parser.add_argument('--quiet', action='store_true', help='show no progress')


def run(args: argparse.Namespace) -> int:
    """Replay the bag and write the results; return the exit status."""
    from spann3r_ros.core.files import write_json
    from spann3r_ros.core.views import prepare_resize
    from spann3r_ros.datasets.bags import CameraBag, TopicNames
    from spann3r_ros.mapping.mapper import Mapper
    from spann3r_ros.mapping.storage.map_directory import MapEmptyError, read_map
    from spann3r_ros.networks.registry import open_network, resolve_checkpoint
    from spann3r_ros.pipeline.bag_replay import Replay, Warnings
    from spann3r_ros.pipeline.sync.camera_sync import Expected
    from spann3r_ros.viewer.live_feed import LiveFeed
    from spann3r_ros.viewer.live_server import LiveServer
    from spann3r_ros.viewer.map_scene import scene_of
    from spann3r_ros.viewer.report_page import Report, write_report
    from spann3r_ros.viewer.run_record import RunRecord
    server: LiveServer | None = None
    try:
        settings = read_settings(args)
        if args.mask_topic and settings.node.mask == 'none':
            raise ValueError('mask-topic: expected a value of the parameter mask that uses masks, '
                             "got 'none'; add --set mask=latest or mask=exact")
        source = settings.mapper.scale.source
        if args.depth_topic and source != 'depth':
            raise ValueError('depth-topic: expected the value depth of the parameter scale.source,'
                             f' got {source!r}; add --set scale.source=depth')
        bag = CameraBag(args.bag, TopicNames(args.topic, args.camera_info_topic, args.mask_topic,
                                             args.odometry_topic, settings.node.mask != 'none',
                                             args.depth_topic, source == 'depth'))
        if args.save_every < 0:
            raise ValueError(f'save-every: expected a number of images or 0, got '
                             f'{args.save_every}')
        saved = None if args.resume is None else read_map(args.resume)
        args.output.mkdir(parents=True, exist_ok=True)
        warnings = Warnings()
        set_up_logging(args.output / LOG, warnings)
        if args.view:
            server = LiveServer(args.view_port)
            print(f'live view: {server.url}', file=sys.stderr)
        weights = resolve_checkpoint(settings.node.checkpoint)
        mapper = Mapper(open_network(weights, settings.networks, settings.node.compute),
                        settings.mapper)
    except (ValueError, OSError) as error:
        if server is not None:
            server.close()
        print(f'spann3r replay: {error}', file=sys.stderr)
        return BAD_INPUT
    prepare_resize(settings.mapper.resampling == 'exact')
    live = None if server is None else LiveFeed(server, mapper)
    record = RunRecord()
    replay = Replay(mapper, settings.node, Expected(
        lambda: bag.has('camera_info'), lambda: bag.has('tf', 'tf_static', 'odometry')),
        [record.observe, *([live.observe] if live else [])],
        live.deliver if live else lambda _: None)
    started = time.perf_counter()
    try:
        if saved is not None:
            logging.getLogger(__name__).info('resumed: %s', replay.resume(saved))
            del saved
        with bag:
            feed(replay, bag, args)
        replay.finish()
        seconds = time.perf_counter() - started
        if live is not None:
            replay.observe_end(live.finish)
        summary = replay.summary(bag.count, seconds, warnings.texts())
        write_json(args.output / SUMMARY_FILE, asdict(summary))
        replay.save(args.output)
        write_report(args.output, Report(
            f'Replay of {args.bag.resolve().name}', count_rows(summary, 'images in the bag'),
            summary.warnings,
            [('network', mapper.network_name), ('weights', str(weights)),
             ('device', settings.node.device), ('CPU threads', str(summary.threads))],
            replay.read(scene_of), record, settings))
    except (MapEmptyError, OSError) as error:
        why = warnings.most_frequent() if isinstance(error, MapEmptyError) else ''
        print(f'spann3r replay: {error}; {why and why + "; "}see {args.output / LOG}',
              file=sys.stderr)
        return FAULT
    except ValueError as error:
        print(f'spann3r replay: {error}', file=sys.stderr)
        return BAD_INPUT
    finally:
        replay.close()
        if live is not None:
            live.close()
    print(conclusion(summary, args.output))
    if replay.defects:
        print(f'spann3r replay: {len(replay.defects)} frames failed by a defect; see '
              f'{args.output / LOG}', file=sys.stderr)
        return FAULT
    return 0


def read_settings(args: argparse.Namespace) -> Settings:
    """Return the settings from file and arguments; raise ValueError for a wrong one."""
    from spann3r_ros.pipeline.node_settings import from_values, parse_values, read_yaml
    values = read_yaml(args.params_file, args.node_name) if args.params_file else {}
    values |= parse_values(args.changes)
    for name in ('checkpoint', 'device'):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    return from_values(values)


def set_up_logging(path: Path, warnings: logging.Handler) -> None:
    """Write the package's log to a file; count the warnings and show the errors on the screen."""
    file, screen = logging.FileHandler(path, 'w'), logging.StreamHandler()
    file.setFormatter(logging.Formatter('%(levelname)s %(name)s: %(message)s'))
    screen.setLevel(logging.ERROR)
    package = logging.getLogger('spann3r_ros')
    package.handlers = [file, screen, warnings]
    package.setLevel(logging.INFO)
    package.propagate = False


def feed(replay: Replay, bag: CameraBag, args: argparse.Namespace) -> None:
    """Pass every message of a bag to a replay; show the progress in images, log what is lost.

    The map is written after every `args.save_every` images.
    """
    from tqdm import tqdm

    from spann3r_ros.mapping.storage.map_directory import MapEmptyError
    logger = logging.getLogger(__name__)
    known, images = bag.warnings, 0
    for text in known:
        logger.warning('%s', text)
    with tqdm(total=bag.count, unit='image', disable=args.quiet) as bar:
        def refuse(role: str, error: ValueError) -> None:
            replay.refuse(role, error)
            bar.update(role == 'image')

        for role, time_ns, message in bag.messages(refuse):
            replay.take(role, message, time_ns)
            bar.update(role == 'image')
            images += role == 'image'
            if role == 'image' and args.save_every and images % args.save_every == 0:
                with suppress(MapEmptyError):
                    replay.save(args.output)
    for text in bag.warnings:
        if text not in known:
            logger.warning('%s', text)


def count_rows(summary: ReplaySummary, images: str) -> list[tuple[str, str]]:
    """Return the rows of the report's table of counts; `images` names the number of images."""
    scale = summary.scale
    return [
        (images, str(summary.images)),
        *((f'frames {name}', str(count)) for name, count in summary.frames.items()),
        ('of the skipped, blind', str(summary.blind)),
        ('recoveries after a failure', str(summary.recovered)),
        ('poses', str(summary.poses)), ('voxels', str(summary.voxels)),
        ('fragments', str(summary.fragments)), ('loops accepted', str(summary.loops)),
        ('scale', f'metric, by {scale["source"]}, ± {100 * scale["deviation"]:.2g} %'
         if scale['metric'] else 'not known'),
        ('seconds', f'{summary.seconds:.1f}'),
        *((f'SHA-256 of the {name}', digest) for name, digest in summary.sha256.items())]


def conclusion(summary: ReplaySummary, output: Path) -> str:
    """Return the summary as one line for the screen."""
    frames, warnings = summary.frames, len(summary.warnings)
    return (f'{frames["processed"]} of {summary.images} images mapped in {summary.seconds:.1f} s: '
            f'{summary.poses} poses, {summary.voxels} voxels, '
            f'{warnings} warning{"s" * (warnings != 1)}; '
            f'wrote {output}')
