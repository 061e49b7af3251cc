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

from .recording_run import (
    BAD_INPUT,
    FAULT,
    INTERRUPTED,
    SUMMARY_FILE,
    add_run_arguments,
    count_rows,
    network_rows,
    read_settings,
    set_up_logging,
)

if TYPE_CHECKING:
    from spann3r_ros.datasets.bags import CameraBag
    from spann3r_ros.pipeline.bag_replay import Replay, ReplaySummary

SUMMARY = 'map a recorded bag without ROS: every image is used, none is dropped'
LOG = 'replay.log'
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
    add_run_arguments(parser)
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
        if args.resume and summary.frames['failed'] and not summary.frames['processed']:
            raise ValueError('resume: expected the map of a camera as that of the bag, got one to '
                             f'which none of its images fits: {warnings.most_frequent()}')
        write_json(args.output / SUMMARY_FILE, asdict(summary))
        replay.save(args.output)
        write_report(args.output, Report(
            f'Replay of {args.bag.resolve().name}', count_rows(summary, 'images in the bag'),
            summary.warnings,
            network_rows(mapper.network_name, weights, settings.node.device, summary.threads),
            replay.read(scene_of), record, settings))
    except (MapEmptyError, OSError) as error:
        why = warnings.most_frequent() if isinstance(error, MapEmptyError) else ''
        print(f'spann3r replay: {error}; {why and why + "; "}see {args.output / LOG}',
              file=sys.stderr)
        return FAULT
    except ValueError as error:
        print(f'spann3r replay: {error}', file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print('spann3r replay: interrupted; no map is written but those of --save-every',
              file=sys.stderr)
        return INTERRUPTED
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


def conclusion(summary: ReplaySummary, output: Path) -> str:
    """Return the summary as one line for the screen."""
    frames, warnings = summary.frames, len(summary.warnings)
    return (f'{frames["processed"]} of {summary.images} images mapped in {summary.seconds:.1f} s: '
            f'{summary.poses} poses, {summary.voxels} voxels, '
            f'{warnings} warning{"s" * (warnings != 1)}; '
            f'wrote {output}')
