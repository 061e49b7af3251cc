# SPDX-License-Identifier: Apache-2.0
"""Publishes the images of a bag and their other messages over DDS, in a separate process."""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from tqdm import tqdm

from spann3r_ros.datasets.bags import CameraBag, TopicNames

from .player import Player, PlayOptions, SilenceError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the values of the command line."""
    parser = argparse.ArgumentParser(prog='bag_player', description=__doc__)
    parser.add_argument('--bag', type=Path, required=True, help='rosbag2 folder or file')
    parser.add_argument('--topic', default='',
                        help='image topic; default: that of the only camera')
    parser.add_argument('--camera-info-topic', default='',
                        help='default: camera_info beside the image topic')
    parser.add_argument('--mask-topic', default='', help=(
        'masks to play; default: with --follow mask beside the image topic, otherwise none'))
    parser.add_argument('--depth-topic', default='',
                        help='depth images to play, for scale.source: depth; default: none')
    parser.add_argument('--rate', type=float, default=PlayOptions.rate, help=(
        'multiple of the recorded rate; 0: as fast as the mapper (default: %(default)s)'))
    parser.add_argument('--window', type=int, default=PlayOptions.window, help=(
        'most published images that the mapper has not finished; 0: do not use its status '
        '(default: %(default)s)'))
    parser.add_argument('--follow', action='store_true', help=(
        'begin when the mapper is active, take window 1 and rate 0 if it is in replay mode, and '
        'report at the end what it has used'))
    parser.add_argument('--clock', action='store_true',
                        help='publish the recorded time on /clock; one in the bag is not played')
    parser.add_argument('--status', default=PlayOptions.status_topic,
                        help="the mapper's status topic (default: %(default)s)")
    parser.add_argument('--patience-sec', type=float, default=PlayOptions.patience_sec,
                        help='fail after so many seconds without progress (default: %(default)s)')
    parser.add_argument('--quiet', action='store_true', help='show no progress')
    parser.add_argument('--describe', action='store_true', help=(
        'print the image topic, whether it is compressed and the number of images, as JSON, and '
        'play nothing'))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play a bag; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    values = parse(remove_ros_args(['bag_player', *arguments])[1:])
    names = TopicNames(values.topic, values.camera_info_topic, values.mask_topic,
                       masks=values.follow or bool(values.mask_topic),
                       depth=values.depth_topic, depths=bool(values.depth_topic))
    try:
        options = PlayOptions(values.rate, values.window, values.follow, values.clock,
                              values.status, values.patience_sec)
        with CameraBag(values.bag, names) as bag:
            if values.describe:
                sys.stdout.write(json.dumps({
                    'topic': bag.image.topic, 'is_compressed': bag.is_compressed,
                    'images': bag.count}) + '\n')
            else:
                _play(bag, options, arguments, values.quiet)
                sys.stderr.writelines(f'bag_player: {text}\n' for text in bag.warnings)
    except (ValueError, SilenceError) as error:
        sys.stderr.write(f'bag_player: {error}\n')
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    return 0


def _play(bag: CameraBag, options: PlayOptions, arguments: Sequence[str], quiet: bool) -> None:
    rclpy.init(args=arguments)
    try:
        player = Player(bag, options)
        with tqdm(total=bag.count, unit='image', disable=quiet) as bar:
            sent = player.play(bar.update)
        if options.uses_status:
            text, is_regular = player.account(sent)
            log = player.get_logger()
            (log.info if is_regular else log.warning)(f'the bag has ended: {text}')
    finally:
        rclpy.try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
