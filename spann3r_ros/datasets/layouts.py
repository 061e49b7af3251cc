# SPDX-License-Identifier: Apache-2.0
"""Videos in RGB-D folders: which layout a folder has, its sequences, ranges of frames."""
from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from .folders import LAYOUTS, REGISTERED_DEPTH, seven_scenes_sequence, split_folders
from .rgbd import DatasetError, RgbdSequence, folders_below, require

RAW_DEPTH = '.depth.png'
# Files by which a layout is recognised, relative to the folder.
MARKERS = {
    'plain': ('K.txt', 'poses.txt', '*/K.txt'),
    'tum': ('rgb.txt', 'groundtruth.txt', '*/rgb.txt'),
    '7scenes': ('frame-*.color.png', 'seq-*/frame-*.color.png', '*/seq-*/frame-*.color.png'),
    'nrgbd': ('*/images/img*.png',),
}
CONTENTS = {
    'plain': 'rgb/NNNN.jpg, depth/NNNN.png, poses.txt, K.txt',
    'tum': 'rgb.txt, depth.txt, groundtruth.txt',
    '7scenes': 'SCENE/seq-NN, seq-NN or frame-NNNNNN.color.png, .depth.proj.png, .pose.txt',
    'nrgbd': 'SCENE/images/imgN.png, SCENE/depth/depthN.png, SCENE/poses.txt',
}
# Images per second of layouts whose files have no times.
RATES = {'plain': 10.0, '7scenes': 30.0, 'nrgbd': 30.0}

logger = logging.getLogger(__name__)


def detect_layout(root: Path) -> str:
    """Return the layout of a folder; DatasetError names what was looked for."""
    if not root.is_dir():
        raise DatasetError(f'{root}: expected a folder, but it does not exist')
    found = [layout for layout, patterns in MARKERS.items()
             if any(next(root.glob(pattern), None) for pattern in patterns)]
    if len(found) == 1:
        return found[0]
    wanted = '; '.join(f'{layout}: {content}' for layout, content in CONTENTS.items())
    got = f'files of {" and ".join(found)}; give --layout' if found else 'none of these'
    raise DatasetError(f'{root}: expected one of the layouts {wanted}. Found {got}')


def read_videos(root: Path, layout: str) -> Iterator[RgbdSequence]:
    """Yield the sequences of a folder at full rate.

    Of 7-Scenes a folder is the data set, a scene or one seq-NN. The sequences are those that
    TestSplit.txt names, or all of a scene without that file.
    """
    if layout != '7scenes':
        yield from LAYOUTS[layout](root)
    elif next(root.glob('frame-*.color.png'), None):
        yield _read_seven_scenes(root)
    elif next(root.glob('seq-*/'), None):
        yield from _read_scene(root)
    else:
        for scene in folders_below(root, '*/seq-*'):
            yield from _read_scene(scene)


def split_range(text: str) -> tuple[str, tuple[int, int] | None]:
    """Return what precedes ':FIRST-LAST' at the end of a text, and that range or None."""
    match = re.fullmatch(r'(.+):(\d+)-(\d+)', text)
    return (match[1], (int(match[2]), int(match[3]))) if match else (text, None)


def _read_scene(scene: Path) -> Iterator[RgbdSequence]:
    named = (scene / 'TestSplit.txt').exists()
    for folder in split_folders(scene, 'Test') if named else sorted(scene.glob('seq-*/')):
        yield _read_seven_scenes(require(folder))


def _read_seven_scenes(folder: Path) -> RgbdSequence:
    """Return a sequence, with the depth of the depth camera if none is registered to colour."""
    if next(folder.glob(f'*{REGISTERED_DEPTH}'), None) or not next(folder.glob(f'*{RAW_DEPTH}'),
                                                                   None):
        return seven_scenes_sequence(folder)
    logger.warning('%s: no %s: the depth of %s is used as if it were registered to colour, which '
                   'shifts it by some pixels', folder, REGISTERED_DEPTH, RAW_DEPTH)
    return seven_scenes_sequence(folder, RAW_DEPTH)
