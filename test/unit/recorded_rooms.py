# SPDX-License-Identifier: Apache-2.0
"""A box seen from inside, written to disk as 7-Scenes, NRGBD, DTU, TUM RGB-D and plain folders."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

HALF = np.array([2.0, 1.5, 2.5])  # metres from the middle of the box to its walls
WIDTH, HEIGHT = 640, 480


def pose(index: int) -> np.ndarray:
    """Return world from camera of a view: a slow turn off the middle."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('yxz', [8.0 * index, 5.0, -3.0], degrees=True).as_matrix()
    angle = np.radians(8.0 * index)
    matrix[:3, 3] = [0.4 * np.cos(angle), 0.1, 0.4 * np.sin(angle)]
    return matrix


def render(index: int, camera: tuple[float, float, float, float], width: int = WIDTH,
           height: int = HEIGHT) -> tuple[np.ndarray, np.ndarray]:
    """Return a BGR image and its depth in metres."""
    fx, fy, cx, cy = camera
    rows, columns = np.indices((height, width))
    rays = np.stack(((columns - cx) / fx, (rows - cy) / fy, np.ones((height, width))), axis=-1)
    world_from_camera = pose(index)
    directions = rays @ world_from_camera[:3, :3].T
    start = world_from_camera[:3, 3]
    with np.errstate(divide='ignore'):
        depth = ((np.sign(directions) * HALF - start) / directions).min(axis=-1)
    points = start + depth[..., None] * directions
    image = (127.5 + 127.5 * np.sin(5.0 * points)).astype(np.uint8)
    return image, depth.astype(np.float32)


def write_seven_scenes(root: Path, count: int, scene: str = 'chess', number: int = 3,
                       first: int = 0) -> None:
    """Write a sequence whose images are numbered from `first`."""
    folder = root / scene / f'seq-{number:02d}'
    folder.mkdir(parents=True)
    (root / scene / 'TestSplit.txt').write_text(f'sequence{number}\n')
    for index in range(count):
        image, depth = render(index, (525.0, 525.0, 320.0, 240.0))
        stem = f'{folder}/frame-{first + index:06d}'
        cv2.imwrite(f'{stem}.color.png', image)
        millimetres = np.round(depth * 1000).astype(np.uint16)
        millimetres[:40] = 65535
        cv2.imwrite(f'{stem}.depth.proj.png', millimetres)
        np.savetxt(f'{stem}.pose.txt', pose(index))


def write_nrgbd(root: Path, count: int, lost: int | None = None, first: int = 0) -> None:
    """Write a scene whose images are numbered from `first`; the one at `lost` has no pose."""
    folder = root / 'kitchen'
    for name in ('images', 'depth'):
        (folder / name).mkdir(parents=True)
    poses = []
    for index in range(count):
        image, depth = render(index, (554.2562584220408, 554.2562584220408, 320.0, 240.0))
        cv2.imwrite(f'{folder}/images/img{first + index}.png', image)
        cv2.imwrite(f'{folder}/depth/depth{first + index}.png',
                    np.round(depth * 1000).astype(np.uint16))
        opengl = pose(index) @ np.diag([1.0, -1.0, -1.0, 1.0])
        poses.append(np.full((4, 4), np.nan) if index == lost else opengl)
    np.savetxt(folder / 'poses.txt', np.concatenate(poses))


def write_dtu(root: Path, count: int, first: int = 0) -> None:
    """Write a scan in millimetres whose object fills the middle of every image.

    Images are numbered from `first`.
    """
    folder, camera = root / 'scan1', (500.0, 510.0, 300.0, 250.0)
    for name in ('images', 'depths', 'binary_masks', 'cams'):
        (folder / name).mkdir(parents=True)
    views = range(first, first + count)
    for index in views:
        image, depth = render(index, camera)
        cv2.imwrite(f'{folder}/images/{index:08d}.jpg', image)
        np.save(folder / f'depths/{index:08d}.npy', depth * 1000.0)
        mask = np.zeros(depth.shape, np.uint8)
        mask[100:-100, 100:-100] = 255
        cv2.imwrite(f'{folder}/binary_masks/{index:08d}.png', mask)
        extrinsic = pose(index)
        extrinsic[:3, 3] *= 1000.0
        extrinsic = np.linalg.inv(extrinsic)
        intrinsic = [[camera[0], 0.0, camera[2]], [0.0, camera[1], camera[3]], [0.0, 0.0, 1.0]]
        text = '\n'.join(['extrinsic', *(' '.join(map(str, row)) for row in extrinsic), '',
                          'intrinsic', *(' '.join(map(str, row)) for row in intrinsic), '',
                          '425.0 2.5'])
        (folder / f'cams/{index:08d}_cam.txt').write_text(text)
    others = [[other for other in views if other != view] for view in views]
    lines = [str(count)]
    for view, neighbours in zip(views, others, strict=True):
        lines += [str(view), ' '.join([str(len(neighbours)),
                                       *(f'{other} {9.5 - other}' for other in neighbours)])]
    (root / 'pair.txt').write_text('\n'.join(lines) + '\n')


def write_tum(root: Path, count: int) -> None:
    """Write a sequence whose depth lags 10 ms, with one image that no pose belongs to."""
    folder = root / 'rgbd_dataset_freiburg3_box'
    for name in ('rgb', 'depth'):
        (folder / name).mkdir(parents=True)
    colors, depths, poses = ['# color images'], ['# depth maps'], ['# ground truth']
    for index in range(count):
        image, depth = render(index, (535.4, 539.2, 320.1, 247.6))
        stamp = 1000.0 + 0.1 * index
        for name, value, lines, late in (('rgb', image, colors, 0.0), (
                'depth', np.round(depth * 5000).astype(np.uint16), depths, 0.01)):
            path = f'{name}/{stamp + late:.6f}.png'
            cv2.imwrite(f'{folder}/{path}', value)
            lines.append(f'{stamp + late:.6f} {path}')
        if index != 1:
            quaternion = Rotation.from_matrix(pose(index)[:3, :3]).as_quat()
            poses.append(' '.join(f'{value:.9f}' for value in (
                stamp - 0.004, *pose(index)[:3, 3], *quaternion)))
    for name, lines in (('rgb', colors), ('depth', depths), ('groundtruth', poses)):
        (folder / f'{name}.txt').write_text('\n'.join(lines) + '\n')


def write_plain(root: Path, count: int, first: int = 0,
                camera: tuple[float, float, float, float] = (535.4, 539.2, 320.1, 247.6),
                size: tuple[int, int] = (WIDTH, HEIGHT), depth_step: int = 1,
                suffix: str = 'png') -> None:
    """Write a plain folder `walk`; depth has every `depth_step`-th row and column of the image."""
    folder, (width, height) = root / 'walk', size
    for name in ('rgb', 'depth'):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        image, _ = render(index, camera, width, height)
        fx, fy, cx, cy = camera
        _, depth = render(index, (fx / depth_step, fy / depth_step,
                                  (cx + 0.5) / depth_step - 0.5, (cy + 0.5) / depth_step - 0.5),
                          width // depth_step, height // depth_step)
        cv2.imwrite(f'{folder}/rgb/{first + index:04d}.{suffix}', image)
        cv2.imwrite(f'{folder}/depth/{first + index:04d}.png',
                    np.round(depth * 1000).astype(np.uint16))
    fx, fy, cx, cy = camera
    np.savetxt(folder / 'K.txt', [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    np.savetxt(folder / 'poses.txt', [pose(index).ravel() for index in range(count)])


WRITERS = {'7scenes': write_seven_scenes, 'nrgbd': write_nrgbd, 'dtu': write_dtu,
           'tum': write_tum, 'plain': write_plain}
