# SPDX-License-Identifier: Apache-2.0
"""`spann3r evaluate-rgbd`: depth, map and path against videos with true depth and poses."""
from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spann3r_ros.cli.options import (
    add_checkpoint_argument,
    add_network_arguments,
    read_compute,
    read_settings,
    without_frame_warnings,
)
from spann3r_ros.core.files import write_json

if TYPE_CHECKING:
    from spann3r_ros.datasets.rgbd import RgbdSequence
    from spann3r_ros.evaluation.rgbd.depth_scores import DepthComparison, DepthScores
    from spann3r_ros.evaluation.rgbd.rgbd_scores import RunScores, VideoScores

SUMMARY = 'score depth, map and path of a checkpoint on videos with true depth and poses'
LAYOUTS = ('plain', 'tum', '7scenes', 'nrgbd')
PAIR_GAP = 3
DEPTH_HEADER = ('depth', 'answer', 'frames', 'lacking', 'AbsRel', '<1.25', 'AbsRel/frame',
                '<1.25/frame', 'log corr.', 'not > 0')
MAP_HEADER = ('map', 'answer', 'points', 'accuracy m', '/ depth', 'completion m', '/ depth',
              'point m', '/ depth')
PATH_HEADER = ('path', 'answer', 'poses', 'ATE m', '/ length', 'RPE m', '/ step', 'RPE rot.')
RUN_HEADER = ('run', 'keyframes', 'failed', 'fragments', 'recovered', 'seen', 'focal / true')
ANSWERS = {'network': 'this checkpoint', 'constant': 'constant depth',
           'mean_image': 'mean depth image'}
NOTE = """\
The mapper has the node's default settings, but every frame is a keyframe. Without calibration it
estimates the focal length. The network sees the middle of the image (seen); only that is scored.
AbsRel, <1.25: mean |depth - truth| / truth and the share within a factor of 1.25, means over the
frames after one scale for the sequence (median ratio of all pixels) and after one for each frame.
log corr.: of log depth, frame by frame. not > 0: pixels without depth, which count as depth 0.
pairs: the first of two images, by the network alone. keyframes: z in the camera whose pose the
mapper solved. lacking: frames without it, in no mean; the rows below have the same frames.
mean depth image: the mean of the true log depth of these frames by pixels, which is not known to
the network.
map: mean nearest distances between map and fused true depth, after one similarity that takes the
keyframes' points to the true points of their pixels. point: mean distance between those. flat: a
plane before a camera that stands still, aligned in the same way; a small cloud has a low accuracy,
so read it with the other two.
ATE after one similarity of the camera centres, RPE from one frame with a pose to the next; RMS."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('folder', type=Path,
                        help='a plain folder (rgb, depth, poses.txt, K.txt), a TUM folder, a '
                             'scene or sequence of 7-Scenes, NRGBD; or a folder of these')
    add_checkpoint_argument(parser)
    parser.add_argument('--layout', choices=LAYOUTS, help='default: found from the files')
    parser.add_argument('--scene', action='append', metavar='NAME',
                        help='only this sequence, as named in the table; may be repeated')
    parser.add_argument('--frames', type=int, nargs=2, metavar=('FIRST', 'LAST'),
                        help='only these images, counted from 0, both included')
    parser.add_argument('--every', type=int, default=1, metavar='N',
                        help='use every n-th of them (default: %(default)s)')
    parser.add_argument('--pair-gap', type=int, default=PAIR_GAP, metavar='N',
                        help='used frames from the first to the second image of a pair '
                             '(default: %(default)s)')
    parser.add_argument('--rate', type=float, metavar='HZ',
                        help="images per second, for their stamps (default: the recording's "
                             'stamps; 30 for 7scenes and nrgbd, 10 for plain)')
    add_network_arguments(parser)
    parser.add_argument('--output', type=Path, help='JSON file to write the results to')
    parser.add_argument('--picture', type=Path,
                        help='PNG file: the map with calibration beside the truth, and depth '
                             'images; with several sequences each adds its name')


def run(args: argparse.Namespace) -> int:
    """Evaluate sequence by sequence, print the tables, write the files."""
    from tqdm import tqdm

    from spann3r_ros.datasets.layouts import RATES, detect_layout
    from spann3r_ros.evaluation.pictures.rgbd_picture import draw_video
    from spann3r_ros.evaluation.rgbd.rgbd_scores import STEPS_PER_FRAME, evaluate_video
    from spann3r_ros.evaluation.rgbd.true_views import open_video
    from spann3r_ros.networks.registry import kind_of
    for name in ('output', 'picture'):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            raise ValueError(f'{name}: expected a file in an existing folder, got {path}')
    layout = args.layout or detect_layout(args.folder)
    videos = [open_video(sequence, args.rate, RATES.get(layout))
              for sequence in select_sequences(args, layout)]
    kind = kind_of(args.checkpoint)
    settings = read_settings(args, kind)
    network = kind.open(args.checkpoint, settings, read_compute(args))
    results, status = [], 0
    for video in videos:
        total = STEPS_PER_FRAME * len(video) - args.pair_gap
        with tqdm(total=total, desc=video.sequence.name) as bar, without_frame_warnings():
            result = evaluate_video(network, video, args.pair_gap, bar.update)
        results.append(result.scores)
        print_tables(result.scores)
        if args.picture:
            try:
                draw_video(picture_file(args.picture, result.scores.name, len(videos)), result)
            except ValueError as error:  # the scores are still printed and written
                print(f'spann3r: {error}', file=sys.stderr)
                status = 1
        if args.output:
            # After each sequence: what is measured stays, whatever becomes of the next one.
            write_json(args.output, {
                'checkpoint': args.checkpoint.name, 'network': kind.name,
                'settings': asdict(settings), 'layout': layout, 'first_to_last': args.frames,
                'every': args.every, 'results': [plain(asdict(item)) for item in results]})
    print(NOTE)
    return status


def select_sequences(args: argparse.Namespace, layout: str) -> list[RgbdSequence]:
    """Return the selected sequences with the frames that are used; ValueError for none."""
    from spann3r_ros.datasets.layouts import read_videos
    if args.every < 1:
        raise ValueError(f'every: expected at least 1, got {args.every}')
    found = {sequence.name: sequence for sequence in read_videos(args.folder, layout)}
    unknown = sorted(set(args.scene or ()) - set(found))
    if unknown:
        raise ValueError(f'scene: expected one of {sorted(found)}, got {unknown[0]!r}')
    chosen = []
    for name, sequence in found.items():
        if args.scene and name not in args.scene:
            continue
        if args.frames:
            sequence = sequence.within(*args.frames)
        sequence = sequence.select(list(range(0, len(sequence.views), args.every)))
        if not 0 < args.pair_gap < len(sequence.views):
            raise ValueError(f'pair-gap: expected 1 to {len(sequence.views) - 1} for the '
                             f'{len(sequence.views)} frames of {name}, got {args.pair_gap}')
        chosen.append(sequence)
    return chosen


def picture_file(path: Path, name: str, count: int) -> Path:
    """Return the file of a sequence's picture; one of several has the sequence's name."""
    return path if count == 1 else path.with_name(f'{path.stem}-{name}{path.suffix}')


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return a value of dictionaries and sequences with its arrays as lists."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, 'tolist') else value


def print_tables(scores: VideoScores) -> None:
    """Print the scores of one sequence."""
    from spann3r_ros.evaluation.tables import format_table
    first = scores.runs[0]
    print(f'\n{scores.name}: {scores.frames} frames in {scores.seconds:.1f} s, path '
          f'{scores.path_length:.2f} m; true depth known for {100 * first.known_share:.0f} % of '
          f'the pixels, mean {first.mean_depth:.2f} m\n')
    depth = depth_rows(f'pairs, {scores.pair_gap} apart', scores.pairs)
    maps, paths, runs = [], [], []
    for item in scores.runs:
        label = 'with calibration' if item.calibrated else 'without calibration'
        depth += depth_rows(f'keyframes {label}', item.depth)
        maps += map_rows(label, item)
        paths += path_rows(label, item, scores.frames)
        focal = '-' if item.focal_ratio is None else f'{item.focal_ratio:.2f}'
        runs.append([label, f'{item.keyframes} of {scores.frames}', str(item.failed),
                     str(item.fragments), str(item.recoveries), f'{100 * item.coverage:.0f} %',
                     focal])
    for header, rows in ((DEPTH_HEADER, depth), (MAP_HEADER, maps), (PATH_HEADER, paths),
                         (RUN_HEADER, runs)):
        print(format_table(header, rows) + '\n')


def depth_rows(label: str, item: DepthComparison) -> list[list[str]]:
    """Return the rows of a network's depth and of the trivial answers."""
    lacking = str(item.lacking)
    if item.unknown:
        lacking += f' + {item.unknown} without truth'
    rows = []
    for name, answer in ANSWERS.items():
        own = name == 'network'
        rows.append([label if own else '', answer, str(item.frames) if own else '',
                     lacking if own else '', *depth_cells(getattr(item, name))])
    return rows


def depth_cells(scores: DepthScores | None) -> list[str]:
    """Return the cells of depth scores; dashes where there is none."""
    if scores is None:
        return ['-'] * 6
    scaled = (scores.sequence_scale, scores.frame_scale)
    correlation = '-' if scores.log_correlation is None else f'{scores.log_correlation:.2f}'
    return [*(f'{value:.3f}' for one in scaled for value in (one.abs_rel, one.delta)),
            correlation, f'{100 * scores.not_positive:.1f} %']


def map_rows(label: str, item: RunScores) -> list[list[str]]:
    """Return the rows of a map and of the flat one."""
    rows = []
    for first, answer, scores in ((label, 'this checkpoint', item.map),
                                  ('', 'flat, camera still', item.flat_map)):
        cells = ['-'] * 7
        if scores is not None:
            lengths = (scores.accuracy.mean, scores.completion.mean, scores.point_error)
            cells = [str(scores.points), *(f'{length / unit:.3f}' for length in lengths
                                           for unit in (1.0, item.mean_depth))]
        rows.append([first, answer, *cells])
    return rows


def path_rows(label: str, item: RunScores, frames: int) -> list[list[str]]:
    """Return the rows of a path and of a camera that stands still."""
    rows = []
    for first, answer, errors in ((label, 'this checkpoint', item.path.errors),
                                  ('', 'camera still', item.path.still)):
        cells = ['-'] * 5
        if errors is not None and errors.path_length > 0.0:
            step = errors.path_length / (item.path.poses - 1)
            cells = [f'{errors.trajectory_error:.3f}',
                     f'{errors.trajectory_error / errors.path_length:.3f}',
                     f'{errors.translation:.3f}', f'{errors.translation / step:.2f}',
                     f'{errors.rotation_deg:.1f} deg']
        rows.append([first, answer, f'{item.path.poses} of {frames}' if first else '', *cells])
    return rows
