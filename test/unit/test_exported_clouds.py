# SPDX-License-Identifier: Apache-2.0
"""Cloud, mesh, scene and trajectory of a saved map, read as other programs read them."""
from __future__ import annotations

import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from exported_maps import POSES, SCENE, WHOLE, make_map, stamp_of

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, transform_points
from spann3r_ros.mapping.exports.export_map import export
from spann3r_ros.mapping.exports.map_content import MapContent, read_content
from spann3r_ros.mapping.exports.normals import find_normals
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud

NO_OPEN3D = 'open3d is not installed: it is an optional extra'
# Metres; the unit of a map with given poses is measured, so that its walls are not exact.
WALL = 0.02
# Of the points, for the normals: a quarter of a voxel.
NOISE = 0.01
# Rays to the outer corners of the image.
CORNERS = [[-0.5, -0.5], [WHOLE.width - 0.5, -0.5],
           [WHOLE.width - 0.5, WHOLE.height - 0.5], [-0.5, WHOLE.height - 0.5]]


@pytest.fixture(scope='module')
def content(tmp_path_factory: pytest.TempPathFactory) -> MapContent:
    """Return a map whose frame is the world of the scene."""
    folder = tmp_path_factory.mktemp('posed')
    make_map(folder)
    return read_content(folder)


def written(content: MapContent, kind: str, folder: Path) -> Path:
    """Write a map in one format; return the file of the cloud, mesh or scene."""
    files = export(content, [kind])
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / next(iter(files))


def by_own_reader(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return points, normals, colours and confidence of a PLY or PCD file, by its header."""
    header, _, body = path.read_bytes().partition(
        b'end_header\n' if path.suffix == '.ply' else b'DATA binary\n')
    lines = [line.split() for line in header.decode().splitlines()]
    if path.suffix == '.ply':
        kinds = {'float': '<f4', 'uchar': 'u1'}
        fields = [(name, kinds[kind]) for first, kind, name in
                  (line for line in lines if line[0] == 'property')]
        rows = np.frombuffer(body, fields)
        colors = np.stack([rows[name] for name in ('red', 'green', 'blue')], axis=1)
        normals = [rows[f'n{axis}'] for axis in 'xyz']
    else:
        names = next(line[1:] for line in lines if line[0] == 'FIELDS')
        rows = np.frombuffer(body, [(name, '<f4') for name in names])
        colors = rows['rgb'].copy().view(np.uint8).reshape(-1, 4)[:, 2::-1]
        normals = [rows[f'normal_{axis}'] for axis in 'xyz']
        assert ['POINTS', str(len(rows))] in lines and ['WIDTH', str(len(rows))] in lines
    return (np.stack([rows[axis] for axis in 'xyz'], axis=1), np.stack(normals, axis=1), colors,
            rows['confidence'])


def by_open3d(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    open3d = pytest.importorskip('open3d', reason=NO_OPEN3D, exc_type=ImportError)
    plain, full = open3d.io.read_point_cloud(str(path)), open3d.t.io.read_point_cloud(str(path))
    return (np.asarray(plain.points), np.asarray(plain.normals),
            np.rint(np.asarray(plain.colors) * 255.0).astype(np.uint8),
            full.point['confidence'].numpy()[:, 0])


@pytest.mark.parametrize('reader', [by_own_reader, by_open3d])
@pytest.mark.parametrize('kind', ['ply', 'pcd'])
def test_clouds_come_back_as_they_were(kind: str, reader: object, content: MapContent,
                                       tmp_path: Path) -> None:
    points, normals, colors, confidence = reader(written(content, kind, tmp_path))
    np.testing.assert_allclose(points, content.cloud.points, atol=1e-6)
    np.testing.assert_array_equal(colors, content.cloud.colors)
    np.testing.assert_allclose(confidence, content.cloud.confidence, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    assert len(points) > 10_000
    # Points of the world lie on its surfaces, and the camera saw the side of their normals.
    assert np.median(SCENE.distances(np.asarray(points, float))) < WALL
    assert colors_differ(np.asarray(points, float), colors) < 30.0


def colors_differ(points: np.ndarray, colors: np.ndarray) -> float:
    """Return the median difference of colours from those of the pixels that show the points."""
    rgb, seen = SCENE.render(POSES[0], WHOLE)
    camera = transform_points(invert(POSES[0]), points)
    ahead = camera[:, 2] > 0.1
    pixels = np.rint(camera[ahead, :2] / camera[ahead, 2:] * (WHOLE.fx, WHOLE.fy)
                     + (WHOLE.cx, WHOLE.cy)).astype(int)
    inside = ((pixels >= 0) & (pixels < (WHOLE.width, WHOLE.height))).all(axis=1)
    x, y = pixels[inside].T
    near = np.abs(seen[y, x, 2] - camera[ahead, 2][inside]) < 0.05
    assert near.sum() > 1000
    return float(np.median(np.abs(rgb[y, x][near].astype(int) - colors[ahead][inside][near])))


def test_a_map_on_disk_and_its_export_have_the_same_points(content: MapContent,
                                                           tmp_path: Path) -> None:
    again = read_ply(written(content, 'ply', tmp_path))
    for one, other in zip(vars(content.cloud).values(), vars(again).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def wall_errors(content: MapContent, reach: float) -> np.ndarray:
    """Return the angles in degrees [n] between the normals of walls and the way into the room.

    The map is that of solved poses; walls are what is within `reach` of them.
    """
    world_from_map = POSES[0] @ invert(MAP_FROM_OPTICAL)
    points = transform_points(world_from_map, content.cloud.points.astype(float))
    normals = find_normals(content) @ world_from_map[:3, :3].T
    errors = []
    for axis in range(3):
        for side, direction in ((SCENE.room[0], 1.0), (SCENE.room[1], -1.0)):
            near = np.abs(points[:, axis] - side[axis]) < reach
            errors.append(np.degrees(np.arccos(np.clip(
                direction * normals[near, axis], -1.0, 1.0))))
    assert sum(map(len, errors)) > 5000
    return np.concatenate(errors)


def test_normals_of_walls_point_into_the_room(tmp_path: Path) -> None:
    # Without given poses, whose unit is measured, the walls are where they are in the scene.
    make_map(tmp_path, posed=False, noise=NOISE)
    content = read_content(tmp_path)
    errors = wall_errors(content, 2.0 * NOISE)
    assert np.median(errors) <= 5.0
    assert (errors > 90.0).mean() < 0.01
    # Behind the walls the path is nearer, but there no camera sees them.
    behind = [pose.world_from_camera.copy() for pose in content.path[:4]]
    for pose, place in zip(behind, ((4.3, 0), (-1.7, 0), (1.3, 2.7), (1.3, -2.7)), strict=True):
        pose[:2, 3] = place
    elsewhere = [replace(one, world_from_camera=pose)
                 for one, pose in zip(content.path, behind, strict=False)]
    errors = wall_errors(replace(content, path=elsewhere), 2.0 * NOISE)
    assert (errors > 90.0).mean() < 0.03


def test_normals_without_keyframes_point_to_the_path(content: MapContent) -> None:
    towards = content.path[0].world_from_camera[:3, 3] - content.cloud.points
    normals = find_normals(replace(content, views=[], path=content.path[:1]))
    assert (np.einsum('ij,ij->i', normals, towards) >= -1e-6).all()


@pytest.mark.parametrize('points', [np.zeros((0, 3)), np.ones((1, 3)), np.ones((5, 3)),
                                    np.eye(3)])
def test_normals_of_a_few_points_are_finite(points: np.ndarray, content: MapContent) -> None:
    cloud = VoxelCloud(points.astype(np.float32), np.zeros((len(points), 3), np.uint8),
                       np.ones(len(points), np.float32))
    normals = find_normals(replace(content, cloud=cloud))
    assert normals.shape == points.shape
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)


def test_scene_has_points_path_and_views_as_gltf_has_them(content: MapContent,
                                                          tmp_path: Path) -> None:
    trimesh = pytest.importorskip('trimesh', reason='trimesh is not installed')
    scene = trimesh.load(written(content, 'glb', tmp_path))
    found = {}
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        found[name] = scene.geometry[name], transform
    cloud, transform = found['points']
    # y is up in glTF: x stays, z of the map is y there, and y of the map is -z.
    points = trimesh.transform_points(cloud.vertices, transform)
    x, y, z = content.cloud.points.T
    np.testing.assert_allclose(points, np.stack([x, z, -y], axis=1), atol=1e-6)
    # Colours are linear in glTF, and trimesh rounds them to 8 bits.
    linear = np.asarray(cloud.colors)[:, :3] / 255.0
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    expected = content.cloud.colors / 255.0
    assert np.abs(srgb - expected)[expected > 0.2].max() < 0.02
    path, _ = found['path']
    centres = np.array([pose[:3, 3] for pose in POSES])
    np.testing.assert_allclose(sorted(map(tuple, np.unique(path.vertices.round(5), axis=0))),
                               sorted(map(tuple, np.unique(centres.round(5), axis=0))), atol=2e-5)
    # The pyramid of each view: its corners are on the rays of the image's corners.
    views, _ = found['views']
    for pose in POSES:
        seen = transform_points(invert(pose), np.asarray(views.vertices, float))
        ahead = seen[np.abs(seen[:, 2]) > 1e-4]
        pixels = ahead[:, :2] / ahead[:, 2:] * (WHOLE.fx, WHOLE.fy) + (WHOLE.cx, WHOLE.cy)
        for corner in CORNERS:
            distance = np.linalg.norm(pixels - corner, axis=1)
            assert ahead[distance.argmin(), 2] > 0.0
            assert distance.min() < 0.01


def test_mesh_covers_the_surfaces_of_the_room(content: MapContent, tmp_path: Path) -> None:
    open3d = pytest.importorskip('open3d', reason=NO_OPEN3D, exc_type=ImportError)
    mesh = open3d.io.read_triangle_mesh(str(written(content, 'mesh', tmp_path)))
    assert mesh.has_vertex_colors() and mesh.has_vertex_normals()
    points = np.asarray(mesh.vertices)
    assert np.median(SCENE.distances(points)) < WALL
    assert colors_differ(points, np.rint(np.asarray(mesh.vertex_colors) * 255)) < 40.0
    # The corners of a face go round as seen from the camera.
    mesh.compute_triangle_normals()
    centres = points[np.asarray(mesh.triangles)].mean(axis=1)
    towards = np.mean([pose[:3, 3] for pose in POSES], axis=0) - centres
    assert (np.einsum('ij,ij->i', np.asarray(mesh.triangle_normals), towards) > 0).mean() > 0.9


def test_mesh_without_open3d_is_refused(content: MapContent,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'open3d', None)
    with pytest.raises(ValueError, match='expected the package open3d.*pip install open3d'):
        export(content, ['ply', 'mesh'])


def test_trajectories_are_poses_of_the_camera_in_the_map(content: MapContent) -> None:
    files = export(content, ['tum', 'kitti'])
    rows = [line.split() for line in files['trajectory.tum'].decode().splitlines()
            if not line.startswith('#')]
    lines = files['trajectory.kitti'].decode().splitlines()
    times = files['trajectory.kitti.times'].decode().split()
    assert len(rows) == len(lines) == len(times) == len(POSES)
    for index, (tum, kitti, time) in enumerate(zip(rows, lines, times, strict=True)):
        assert Decimal(tum[0]) == Decimal(time) == Decimal(stamp_of(index)) / 10**9
        np.testing.assert_allclose(np.array(kitti.split(), float).reshape(3, 4),
                                   POSES[index][:3], atol=1e-6)
        np.testing.assert_allclose(np.array(tum[1:4], float), POSES[index][:3, 3], atol=1e-6)
        x, y, z, w = map(float, tum[4:])
        # The optical axis in the world is the third column of the rotation.
        np.testing.assert_allclose([2 * (x * z + y * w), 2 * (y * z - x * w),
                                    1 - 2 * (x * x + y * y)], POSES[index][:3, 2], atol=1e-6)


@pytest.mark.parametrize('kind', ['ply', 'pcd', 'glb', 'tum', 'nerfstudio', 'colmap-text'])
def test_files_say_whether_the_map_is_metric(kind: str, content: MapContent) -> None:
    for name, data in export(content, [kind]).items():
        start = data[:4000].decode('latin1').lower().replace('"', '')
        assert 'metric: true' in start, name
        assert 'frame: map' in start, name
