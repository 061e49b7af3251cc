# SPDX-License-Identifier: Apache-2.0
"""`spann3r reconstruct`: maps photographs or a video, in their order or in one that it finds."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from spann3r_ros.core.network import Network
    from spann3r_ros.datasets.photos.photo_files import FoundPhotos
    from spann3r_ros.datasets.photos.video_file import VideoFile
    from spann3r_ros.pipeline.bag_replay import ReplaySummary
    from spann3r_ros.pipeline.node_settings import Settings
    from spann3r_ros.reconstruction.agreement import Placed
    from spann3r_ros.reconstruction.photo_run import PhotoRun
    from spann3r_ros.viewer.run_record import RunRecord

SUMMARY = 'map photographs or a video without ROS'
LOG, PICTURE = 'reconstruct.log', 'map.png'
# Images that are not registered and are named on the screen; all are in the summary.
MOST_NAMED = 20
DOUBTFUL = ('poses and points do not agree with the corners that the photographs share: the '
            'median distance is %.0f %% of the image width; the weights do not suit these '
            'photographs')
EPILOG = """\
Writes the directory map, map.png, report.html, reconstruct.log and summary.json. Exit status: 0
with a map, 2 for bad input, 1 for a fault or an empty map, 130 after Ctrl-C, with a map of the
images so far.
The order of the files changes nothing unless they are mapped in it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument('input', type=Path, nargs='+',
                        help='a folder of photographs, photographs, or a video')
    parser.add_argument('--order', choices=('auto', 'ordered', 'unordered'), default='auto',
                        help='ordered: in the order of the names, as a video; auto: so for a '
                             'video and for files with consecutive numbers (default: auto)')
    parser.add_argument('--fps', type=float, default=10.0,
                        help='images a second that are taken of a video, 0: all (default: '
                             '%(default)g)')
    parser.add_argument('--neighbours', type=int, metavar='K',
                        help='unordered: compare each photograph with the K most similar ones, 0: '
                             'with all (default: all up to 20 photographs, else 8)')
    parser.add_argument('--ignore-exif', action='store_true',
                        help='do not use the focal length in EXIF data; images are turned upright '
                             'all the same')
    add_run_arguments(parser)


@dataclass
class Outcome:
    """What the run did beside the map: values for summary and report.

    The stamps of images without a time are `image_ns` apart; None: the images have times.
    """

    order: str
    images: int
    record: RunRecord
    image_ns: int | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False


def run(args: argparse.Namespace) -> int:
    """Map the input and write the results; return the exit status."""
    from spann3r_ros.core.types import FrameError
    from spann3r_ros.core.views import prepare_resize
    from spann3r_ros.datasets.photos.photo_files import find_photos, is_video
    from spann3r_ros.datasets.photos.video_file import VideoFile
    from spann3r_ros.networks.registry import open_network, resolve_checkpoint
    from spann3r_ros.pipeline.bag_replay import Warnings
    try:
        settings = read_settings(args)
        if args.neighbours is not None and args.neighbours < 0:
            raise ValueError(f'neighbours: expected 0 (all) or more, got {args.neighbours}')
        found = find_photos(args.input)
        video = None
        if len(args.input) == 1 and is_video(args.input[0]):
            if args.order == 'unordered':
                raise ValueError('order: expected ordered or auto for a video, got unordered')
            video = VideoFile(args.input[0], args.fps)
        weights = resolve_checkpoint(settings.node.checkpoint)
        network = open_network(weights, settings.networks, settings.node.compute)
        args.output.mkdir(parents=True, exist_ok=True)
        warnings = Warnings()
        set_up_logging(args.output / LOG, warnings)
    except (ValueError, OSError) as error:
        return bad_input(error)
    prepare_resize(settings.mapper.resampling == 'exact')
    started, progress = time.perf_counter(), Bars(args.quiet)
    try:
        if video is not None:
            outcome, photo_run = map_video(args, video, settings, network, progress)
        elif chosen_order(args.order, found) == 'ordered':
            outcome, photo_run = map_in_order(args, found, settings, network, progress)
        else:
            outcome, photo_run = map_unordered(args, found, settings, network, progress)
    except FrameError as error:
        return bad_input(error)
    except KeyboardInterrupt:
        print('spann3r reconstruct: interrupted before an image was mapped', file=sys.stderr)
        return INTERRUPTED
    return finish(args, settings, weights, found, outcome, photo_run, warnings, started)


def bad_input(error: Exception) -> int:
    """Print the error as one line; return the exit status."""
    print(f'spann3r reconstruct: {error}', file=sys.stderr)
    return BAD_INPUT


def chosen_order(wanted: str, found: FoundPhotos) -> str:
    """Return whether photographs are mapped in the order of their names."""
    from spann3r_ros.datasets.photos.photo_files import are_consecutive
    if len(found.paths) == 1:
        return 'unordered'
    if wanted != 'auto':
        return wanted
    return 'ordered' if are_consecutive(found.paths) else 'unordered'


def map_video(args: argparse.Namespace, video: VideoFile, settings: Settings, network: Network,
              progress: Bars) -> tuple[Outcome, PhotoRun]:
    """Map a video."""
    from spann3r_ros.mapping.mapper import Mapper
    from spann3r_ros.reconstruction.ordered import video_frames
    from spann3r_ros.reconstruction.photo_run import PhotoRun
    from spann3r_ros.viewer.run_record import RunRecord
    path = args.input[0]
    print(f'{path.name}: a video, in its order')
    outcome = Outcome('ordered', 0, RunRecord())
    photo_run = PhotoRun(Mapper(network, settings.mapper), observers=[outcome.record.observe])
    every = max(1.0, video.rate / args.fps) if args.fps else 1.0
    with progress('mapping', round(video.frames / every)) as advance:
        ended = photo_run.take(video_frames(video, path.name), advance)
    video.close()
    outcome.images, outcome.interrupted = photo_run.images, not ended
    if ended and video.is_cut:
        outcome.values['video_cut'] = (f'{video.decoded} of {video.frames} frames could be '
                                       'decoded')
        print(f'spann3r reconstruct: {path.name}: {outcome.values["video_cut"]}', file=sys.stderr)
    return outcome, photo_run


def map_in_order(args: argparse.Namespace, found: FoundPhotos, settings: Settings,
                 network: Network, progress: Bars) -> tuple[Outcome, PhotoRun]:
    """Map photographs in the order of their names."""
    from spann3r_ros.mapping.mapper import Mapper
    from spann3r_ros.reconstruction.ordered import BETWEEN_NS, camera_of_files, file_frames
    from spann3r_ros.reconstruction.photo_run import PhotoRun
    from spann3r_ros.viewer.run_record import RunRecord
    print(f'{len(found.paths)} files, in the order of their names'
          + ('' if args.order == 'ordered' else ', which are numbered; --order unordered finds '
             'another'))
    use_focal = not args.ignore_exif
    outcome = Outcome('ordered', len(found.paths), RunRecord(), BETWEEN_NS)
    camera, outcome.values['fitted'] = camera_of_files(found.paths, use_focal)
    photo_run = PhotoRun(Mapper(network, settings.mapper), observers=[outcome.record.observe])

    def refuse(name: str, reason: str) -> None:
        outcome.left_out[name] = reason
        advance(1)

    with progress('mapping', len(found.paths)) as advance:
        outcome.interrupted = not photo_run.take(
            file_frames(found.paths, labels(found.paths), camera, use_focal, refuse), advance)
    return outcome, photo_run


def map_unordered(args: argparse.Namespace, found: FoundPhotos, settings: Settings,
                  network: Network, progress: Bars) -> tuple[Outcome, PhotoRun]:
    """Map photographs in the order that the network finds."""
    from spann3r_ros.core.types import FrameError
    from spann3r_ros.mapping.mapper import Mapper
    from spann3r_ros.reconstruction.agreement import MOST_ERROR, Placed, corner_error
    from spann3r_ros.reconstruction.photo_run import Named, PhotoRun
    from spann3r_ros.reconstruction.survey import select, survey
    from spann3r_ros.reconstruction.unordered import (
        APART_NS,
        mapping_settings,
        order_photos,
        read_frames,
    )
    from spann3r_ros.viewer.run_record import RunRecord
    print(f'{len(found.paths)} files, in no order' if len(found.paths) > 1 else '1 file')
    config, use_focal = mapping_settings(settings.mapper), not args.ignore_exif
    names = dict(zip(found.paths, labels(found.paths), strict=True))
    with progress('reading', len(found.paths)) as advance:
        read, unread = survey(found.paths, advance)
    photos, unfit = select(read, settings.mapper.sight)
    left_out = [*unread, *unfit]
    if not photos:
        raise FrameError(f'input: expected photographs, got none that can be used: '
                         f'{left_out[0].path.name}: {left_out[0].reason}')
    ordered = order_photos(photos, network, config, use_focal, args.neighbours, progress)
    outcome = Outcome('unordered', len(found.paths), RunRecord(), APART_NS,
                      interrupted=ordered.interrupted)
    outcome.left_out = {names[one.path]: one.reason for one in (*left_out, *ordered.left_out)}
    outcome.values = {'fitted': ordered.fitted, 'pairs': {
        'possible': ordered.possible, 'compared': ordered.compared, 'weighed': ordered.weighed}}
    paths = {name: path for path, name in names.items()}
    placed: dict[Path, Placed] = {}
    photo_run = PhotoRun(Mapper(network, config), lambda name, keyframe: placed.setdefault(
        paths[name], Placed.of(keyframe)), [outcome.record.observe])
    images = (Named(names[path], frame) for path, frame in read_frames(
        ordered, use_focal, lambda path, reason: outcome.left_out.update({names[path]: reason})))
    with progress('mapping', len(ordered.photos)) as advance:
        outcome.interrupted |= not photo_run.take(images, advance)
    error = corner_error(ordered.links, placed)
    outcome.values['corner_error'] = None if error is None else round(error, 4)
    if error is not None and error > MOST_ERROR:
        getLogger(__name__).warning(DOUBTFUL, 100 * error)
    return outcome, photo_run


def finish(args: argparse.Namespace, settings: Settings, weights: Path, found: FoundPhotos,
           outcome: Outcome, photo_run: PhotoRun, warnings: Any,  # noqa: ANN401
           started: float) -> int:
    """Write map, picture, report and summary; print what became of the images.

    Returns the exit status.
    """
    from spann3r_ros.core.files import write_json
    from spann3r_ros.evaluation.pictures.cloud_picture import draw_cloud
    from spann3r_ros.mapping.storage.map_directory import MapEmptyError
    from spann3r_ros.reconstruction.agreement import MOST_ERROR
    from spann3r_ros.viewer.map_scene import scene_of
    from spann3r_ros.viewer.report_page import Report, write_report
    left_out = {**outcome.left_out, **photo_run.left_out}
    is_ordered = outcome.order == 'ordered'
    names = {} if outcome.image_ns is None else photo_run.names
    try:
        summary = photo_run.summary(time.perf_counter() - started, warnings.texts())
        write_json(args.output / SUMMARY_FILE, {
            **asdict(summary), 'order': outcome.order, 'files': outcome.images,
            'other_files': found.others, 'interrupted': outcome.interrupted,
            'registered': [{'image': name, 'stamp_ns': stamp_ns}
                           for name, stamp_ns in photo_run.registered.items()],
            'not_registered': [{'image': name, 'reason': left_out[name]}
                               for name in sorted(left_out)], **outcome.values})
        print_left_out(left_out)
        photo_run.save(args.output)
        draw_cloud(args.output / PICTURE,
                   *photo_run.read(lambda mapper: (mapper.cloud(), mapper.trajectory)),
                   follows_path=is_ordered)
        write_report(args.output, Report(
            f'Reconstruction of {labels(tuple(args.input))[0]}',
            report_rows(summary, outcome, len(left_out)),
            [*summary.warnings, *(f'{name}: {left_out[name]}' for name in sorted(left_out))],
            network_rows(photo_run.read(lambda mapper: mapper.network_name), weights,
                         settings.node.device, summary.threads),
            photo_run.read(lambda mapper: scene_of(mapper, names, is_ordered)), outcome.record,
            settings, outcome.image_ns))
    except (MapEmptyError, OSError) as error:
        print(f'spann3r reconstruct: {error}; see {args.output / LOG}', file=sys.stderr)
        return FAULT
    finally:
        photo_run.close()
    print(f'{image_counts(outcome, photo_run)}, {summary.voxels} voxels, '
          f'in {summary.seconds:.1f} s; wrote {args.output}')
    error = outcome.values.get('corner_error')
    if error is not None:
        print(f'corners that photographs share are {error:.1%} of the image width apart (median)'
              + (': the map is not to be trusted' if error > MOST_ERROR else ''))
    if photo_run.defects:
        print(f'spann3r reconstruct: {len(photo_run.defects)} images failed by a defect; see '
              f'{args.output / LOG}', file=sys.stderr)
        return FAULT
    return INTERRUPTED if outcome.interrupted else 0


def image_counts(outcome: Outcome, photo_run: PhotoRun) -> str:
    """Return what became of the images, for the screen."""
    posed = len(photo_run.registered)
    if outcome.order != 'ordered':
        return f'{posed} of {outcome.images} images have a pose'
    lost = len(photo_run.left_out)
    text = (f'{posed} of {outcome.images} images are keyframes, '
            f'{photo_run.images - posed - lost} show nothing new, '
            f'{lost + len(outcome.left_out)} have no pose')
    missed = outcome.images - photo_run.images - len(outcome.left_out)
    return text + (f', {missed} were not reached' if missed else '')


def report_rows(summary: ReplaySummary, outcome: Outcome, left_out: int) -> list[tuple[str, str]]:
    """Return the rows of the report's table of counts."""
    error = outcome.values.get('corner_error')
    return [('files', str(outcome.images)), ('order', outcome.order),
            ('not registered', str(left_out)),
            *([] if error is None else [('shared corners apart (median)',
                                         f'{error:.1%} of the image width')]),
            *count_rows(summary, 'images mapped')]


def print_left_out(left_out: dict[str, str]) -> None:
    """Print the images without a place in the map, and why."""
    for name in sorted(left_out)[:MOST_NAMED]:
        print(f'not registered: {name}: {left_out[name]}')
    if len(left_out) > MOST_NAMED:
        print(f'not registered: {len(left_out) - MOST_NAMED} more, in {SUMMARY_FILE}')


def labels(paths: tuple[Path, ...]) -> list[str]:
    """Return the names of files, or their paths if two have one name."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


class Bars:
    """Shows a bar with the time left for each stage, on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, stage: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
        """Return a context with a function that gets how many more are done."""
        return self._bar(stage, total)

    @contextmanager
    def _bar(self, stage: str, total: int) -> Iterator[Callable[[int], object]]:
        from tqdm import tqdm

        # None: no bar where the output is not a terminal.
        with tqdm(total=total or None, desc=stage, disable=True if self._quiet else None) as bar:
            yield bar.update
