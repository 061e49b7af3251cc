# SPDX-License-Identifier: Apache-2.0
"""Readers of 7-Scenes, NRGBD, DTU and TUM RGB-D folders, in the layouts of their downloads."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from .calibration import Calibration, find_calibration
from .numbered import numbered_images, renumbered
from .plain import plain
from .rgbd import (
    DatasetError,
    RgbdSequence,
    ViewFiles,
    check_pose,
    folders_below,
    image_number,
    read_depth_image,
    read_millimetres,
    read_numbers,
    require,
)

# Depth images of 7-Scenes after their projection into the colour camera.
REGISTERED_DEPTH = '.depth.proj.png'
SEVEN_SCENES_CAMERA = (525.0, 525.0, 320.0, 240.0)
NRGBD_CAMERA = (554.2562584220408, 554.2562584220408, 320.0, 240.0)
# TUM's 16 bit depth images count fifths of a millimetre; the stamps of both cameras differ.
TUM_DEPTH_PER_METRE = 5000.0
TUM_STAMP_TOLERANCE_S = 0.02
# By the number of TUM's camera in the folder's name; lens distortion is neglected.
TUM_CAMERAS = {'1': (517.3, 516.5, 318.6, 255.3), '2': (520.9, 521.0, 325.1, 249.7),
               '3': (535.4, 539.2, 320.1, 247.6)}
TUM_OTHER_CAMERA = (525.0, 525.0, 319.5, 239.5)
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def seven_scenes(root: Path, split: str = 'Test') -> Iterator[RgbdSequence]:
    """Yield the sequences that each scene's TestSplit.txt (or TrainSplit.txt) names.

    SCENE/seq-NN/frame-NNNNNN.color.png, .depth.proj.png (registered to colour, millimetres) and
    .pose.txt (world from camera). For another camera, calibration.txt of the sequence or of the
    scene contains fx, fy, cx and cy.
    """
    for scene in folders_below(root, f'*/{split}Split.txt', '*/seq-*'):
        for folder in split_folders(scene, split):
            yield seven_scenes_sequence(require(folder))


def split_folders(scene: Path, split: str) -> Iterator[Path]:
    """Yield the folders seq-NN that a scene's TestSplit.txt or TrainSplit.txt names."""
    file = require(scene / f'{split}Split.txt')
    for line in file.read_text().split() or ['']:
        number = re.fullmatch(r'sequence(\d+)', line)
        if number is None:
            raise DatasetError(f'{file}: expected sequenceN, got {line!r}')
        yield scene / f'seq-{int(number[1]):02d}'


def seven_scenes_sequence(folder: Path, depth_suffix: str = REGISTERED_DEPTH) -> RgbdSequence:
    """Return the sequence of a folder SCENE/seq-NN; names of depth images end in `depth_suffix`.

    DatasetError for a folder of another name.
    """
    folder = folder.absolute()
    scene, number = folder.parent, re.fullmatch(r'seq-(\d+)', folder.name)
    if number is None:
        raise DatasetError(f'{folder}: expected a folder named seq-NN')
    colors = numbered_images(folder, ['frame-*.color.png'],
                             [f'frame-*{depth_suffix}', 'frame-*.pose.txt'])
    depth = folder / colors[0].name.replace('.color.png', depth_suffix)
    camera = find_calibration([folder, scene], depth, read_millimetres(depth).shape,
                              SEVEN_SCENES_CAMERA)
    views = []
    for position, color in enumerate(colors):
        stem = color.name.removesuffix('.color.png')
        pose_file = folder / f'{stem}.pose.txt'
        pose = check_pose(pose_file, _matrix(pose_file, read_numbers(pose_file, 4)))
        views.append(ViewFiles(color, require(folder / f'{stem}{depth_suffix}'), pose,
                               camera, position))
    return RgbdSequence(f'{scene.name}{int(number[1]):02d}', tuple(views), read_millimetres)


def nrgbd(root: Path) -> Iterator[RgbdSequence]:
    """Yield every scene: SCENE/images/imgN.png, depth/depthN.png (millimetres) and poses.txt.

    poses.txt has four lines a view, world from camera in OpenGL axes; views whose pose is NaN
    are left out.
    """
    for scene in folders_below(root, '*/poses.txt', '*/images/img*.png'):
        rows = read_numbers(scene / 'poses.txt', 4)
        colors = numbered_images(scene, ['images/img*.png'], ['depth/depth*.png'])
        _check_count(scene / 'poses.txt', len(rows), colors)
        views = []
        for position, (color, pose) in enumerate(
                zip(colors, rows.reshape(-1, 4, 4), strict=True)):
            number = color.stem.removeprefix('img')
            depth = require(scene / 'depth' / f'depth{number}.png')
            if np.isfinite(pose).all():
                pose = check_pose(scene / 'poses.txt', pose @ OPENCV_FROM_OPENGL)
                views.append(ViewFiles(color, depth, pose, NRGBD_CAMERA, position))
        yield RgbdSequence(scene.name, tuple(views), read_millimetres)


def _check_count(poses: Path, lines: int, colors: list[Path]) -> None:
    if lines > 4 * len(colors) and lines % 4 == 0:
        # Scenes are numbered from 0: if this one begins later, its first image is missing.
        lost = 0 if image_number(colors[0]) > 0 else image_number(colors[-1]) + 1
        raise DatasetError(f'{renumbered(colors[0], lost)}: expected, as {poses} has '
                           f'{lines // 4} poses for {len(colors)} images, but it does not exist')
    if lines != 4 * len(colors):
        raise DatasetError(f'{poses}: expected {4 * len(colors)} lines for {len(colors)} images, '
                           f'got {lines}')


def dtu(root: Path) -> Iterator[RgbdSequence]:
    """Yield every scan, in millimetres: scanN/images/NNNNNNNN.jpg and MVSNet's camera files.

    cams/NNNNNNNN_cam.txt (camera from world, intrinsics), depths/NNNNNNNN.npy,
    binary_masks/NNNNNNNN.png; pair.txt, of a scan or of all, lists each view's neighbours.
    """
    for scan in folders_below(root, 'scan*/images', 'scan*/depths'):
        # Camera files do not count: MVSNet's folders contain some without an image.
        colors = numbered_images(scan, ['images/*.jpg', 'images/*.png'],
                                 ['depths/*.npy', 'binary_masks/*.png'])
        views = []
        for position, color in enumerate(colors):
            pose, camera = _read_mvs_camera(scan / 'cams' / f'{color.stem}_cam.txt')
            views.append(ViewFiles(color, require(scan / 'depths' / f'{color.stem}.npy'), pose,
                                   camera, position,
                                   require(scan / 'binary_masks' / f'{color.stem}.png')))
        pairs = next((path for path in (scan / 'pair.txt', root / 'pair.txt') if path.exists()),
                     None)
        yield RgbdSequence(scan.name, tuple(views), _read_array, 1000.0,
                           neighbours=_read_pairs(pairs) if pairs else {})


def tum(root: Path) -> Iterator[RgbdSequence]:
    """Yield a sequence, or every one of a folder: rgb.txt, depth.txt and groundtruth.txt.

    Colour, depth and pose are associated when their stamps differ by at most 20 ms. For a camera
    that is not one of TUM's, calibration.txt contains fx, fy, cx and cy.
    """
    single = [root] if (root / 'rgb.txt').exists() else folders_below(root, '*/rgb.txt')
    for folder in single:
        colors, depths = (_read_tum_list(folder / name) for name in ('rgb.txt', 'depth.txt'))
        poses = read_numbers(folder / 'groundtruth.txt', 8)
        if not len(poses):
            raise DatasetError(f'{folder / "groundtruth.txt"}: expected poses, got none')
        depth_stamps = np.array([stamp for stamp, _ in depths])
        if not depths:
            raise DatasetError(f'{folder / "depth.txt"}: expected depth images, got none')
        camera = _tum_camera(folder, depths[0][1])
        views = []
        for stamp, color in colors:
            depth, pose = _nearest(depth_stamps, stamp), _nearest(poses[:, 0], stamp)
            if depth is not None and pose is not None:
                views.append(ViewFiles(color, depths[depth][1], check_pose(
                    folder / 'groundtruth.txt', _tum_pose(poses[pose])), camera,
                    len(views), stamp_sec=stamp))
        if not views:
            raise DatasetError(f'{folder}: expected colour, depth and poses within '
                               f'{TUM_STAMP_TOLERANCE_S} s of each other, found none')
        yield RgbdSequence(folder.name, tuple(views), read_tum_depth)


LAYOUTS: dict[str, Callable[[Path], Iterator[RgbdSequence]]] = {
    '7scenes': seven_scenes, 'nrgbd': nrgbd, 'dtu': dtu, 'tum': tum,
    'plain': plain}


def read_tum_depth(path: Path) -> np.ndarray:
    """Return a TUM depth image in metres; 0 is no depth."""
    return read_depth_image(path, TUM_DEPTH_PER_METRE)


def _read_array(path: Path) -> np.ndarray:
    try:
        depth = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DatasetError(f'{path}: expected a numpy array: {error}') from error
    if not isinstance(depth, np.ndarray) or depth.ndim != 2:
        raise DatasetError(f'{path}: expected a depth image [height, width], '
                           f'got {getattr(depth, "shape", type(depth).__name__)}')
    return np.nan_to_num(depth.astype(np.float32), posinf=0.0, neginf=0.0).clip(min=0.0)


def _matrix(path: Path, rows: np.ndarray) -> np.ndarray:
    if rows.shape != (4, 4):
        raise DatasetError(f'{path}: expected 4 x 4 numbers, got {rows.shape}')
    return rows


def _read_mvs_camera(path: Path) -> tuple[np.ndarray, Calibration]:
    words = require(path).read_text().split()
    try:
        at = words.index('extrinsic') + 1
        camera_from_world = np.array(words[at:at + 16], float).reshape(4, 4)
        at = words.index('intrinsic') + 1
        matrix = np.array(words[at:at + 9], float).reshape(3, 3)
    except ValueError as error:
        raise DatasetError(f'{path}: expected "extrinsic" with 16 numbers and "intrinsic" with 9: '
                           f'{error}') from error
    pose = np.linalg.inv(check_pose(path, camera_from_world))
    return pose, (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])


def _read_pairs(path: Path) -> dict[int, tuple[int, ...]]:
    """Return the neighbours of each view; the file has a count, then two lines for each view."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    try:
        return {int(lines[i][0]): tuple(map(int, lines[i + 1][1::2]))
                for i in range(1, 1 + 2 * int(lines[0][0]), 2)}
    except (ValueError, IndexError) as error:
        raise DatasetError(f'{path}: expected the view lists of MVSNet: {error}') from error


def _read_tum_list(path: Path) -> list[tuple[float, Path]]:
    """Return (stamp in seconds, image) by stamp; DatasetError for a missing image."""
    rows = [line.split() for line in require(path).read_text().splitlines()
            if line.strip() and not line.startswith('#')]
    try:
        return sorted((float(stamp), require(path.parent / name)) for stamp, name in rows)
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f'{path}: expected "stamp file" a line: {error}') from error


def _tum_camera(folder: Path, depth: Path) -> Calibration:
    number = re.search(r'freiburg(\d)', folder.name)
    known = TUM_CAMERAS.get(number[1] if number else '', TUM_OTHER_CAMERA)
    return find_calibration([folder], depth, read_tum_depth(depth).shape, known)


def _nearest(stamps: np.ndarray, stamp: float) -> int | None:
    if not len(stamps):
        return None
    index = int(np.abs(stamps - stamp).argmin())
    return index if abs(stamps[index] - stamp) <= TUM_STAMP_TOLERANCE_S else None


def _tum_pose(row: np.ndarray) -> np.ndarray:
    """Return `world_from_camera` of stamp, position and quaternion (x, y, z, w)."""
    pose = np.eye(4)
    length = np.linalg.norm(row[4:])
    pose[:3, :3] = Rotation.from_quat(row[4:]).as_matrix() if length > 0.0 else np.nan
    pose[:3, 3] = row[1:4]
    return pose
