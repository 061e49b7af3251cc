# SPDX-License-Identifier: Apache-2.0
"""Views of a saved map in COLMAP's and nerfstudio's files, read as these programs read them."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from exported_maps import (
    FIRST_NS,
    POSES,
    SCENE,
    WHOLE,
    index_of,
    known_points,
    make_map,
    seen_by_network,
)

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, transform_points
from spann3r_ros.mapping.exports.colmap_files import build_model, encode_binary, encode_text
from spann3r_ros.mapping.exports.export_map import export
from spann3r_ros.mapping.exports.image_tracks import find_tracks
from spann3r_ros.mapping.exports.map_content import (
    MapContent,
    SavedView,
    _named,
    read_content,
)
from spann3r_ros.mapping.exports.nerfstudio_files import encode_transforms
from spann3r_ros.mapping.mapper import Mapper

MOST_REPROJECTION_PX = 0.5
NO_PYCOLMAP = 'pycolmap is not installed: it has no wheel for this Python'


@dataclass(frozen=True)
class ReadView:
    """A view as another program has it: the pixels [n, 2] of points [n, 3] of the map."""

    name: str
    size: tuple[int, int]
    pixels_of: Callable[[np.ndarray], np.ndarray]


def by_text(folder: Path) -> Iterator[ReadView]:
    """Read cameras.txt and images.txt by the formulas in COLMAP's description of its format."""
    def rows(name: str) -> list[list[str]]:
        return [line.split(' ') for line in (folder / name).read_text().splitlines()
                if not line.startswith('#')]
    cameras = {one[0]: one[2:] for one in rows('cameras.txt')}
    for _, *pose, camera, name in rows('images.txt')[::2]:
        (w, x, y, z), shift = np.array(pose[:4], float), np.array(pose[4:], float)
        turn = np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
        width, height, fx, fy, cx, cy = map(float, cameras[camera])

        def pixels_of(points: np.ndarray, turn: np.ndarray = turn, shift: np.ndarray = shift,
                      camera: tuple[float, ...] = (fx, fy, cx, cy)) -> np.ndarray:
            seen = points @ turn.T + shift
            assert (seen[:, 2] > 0.0).all()
            return seen[:, :2] / seen[:, 2:] * camera[:2] + camera[2:]
        yield ReadView(name, (int(height), int(width)), pixels_of)


def by_pycolmap(folder: Path) -> Iterator[ReadView]:
    pycolmap = pytest.importorskip('pycolmap', reason=NO_PYCOLMAP)
    model = pycolmap.Reconstruction(folder)
    for one in model.images.values():
        camera = model.cameras[one.camera_id]
        yield ReadView(one.name, (camera.height, camera.width), lambda points, one=one: np.array(
            [one.project_point(point) for point in points]))


def by_nerfstudio(file: Path) -> Iterator[ReadView]:
    """Read transforms.json as nerfstudio documents it: camera to world, OpenGL axes."""
    content = json.loads(file.read_text())
    for frame in content['frames']:
        camera, pose = {**content, **frame}, np.array(frame['transform_matrix'])

        def pixels_of(points: np.ndarray, pose: np.ndarray = pose,
                      camera: dict[str, float] = camera) -> np.ndarray:
            # A ray through the pixel is ((x - cx) / fl_x, -(y - cy) / fl_y, -1).
            seen = (points - pose[:3, 3]) @ pose[:3, :3]
            assert (seen[:, 2] < 0.0).all()
            return np.stack([camera['cx'] - camera['fl_x'] * seen[:, 0] / seen[:, 2],
                             camera['cy'] + camera['fl_y'] * seen[:, 1] / seen[:, 2]], axis=1)
        yield ReadView(frame['file_path'].removeprefix('images/'), (camera['h'], camera['w']),
                       pixels_of)


def read_as(kind: str, content: MapContent, folder: Path) -> list[ReadView]:
    """Write a map's views in one of the formats, and read them as another program does."""
    if kind == 'nerfstudio':
        (folder / 'transforms.json').write_bytes(encode_transforms(content, 'images', 'p.ply'))
        return list(by_nerfstudio(folder / 'transforms.json'))
    model = build_model(content.views, find_tracks(content.views))
    files = encode_binary(model) if kind == 'binary' else encode_text(model, content.notes)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return list((by_text if kind == 'text' else by_pycolmap)(folder))


KINDS = 'nerfstudio', 'text', 'text by pycolmap', 'binary'


@pytest.fixture(scope='module')
def posed(tmp_path_factory: pytest.TempPathFactory) -> MapContent:
    """Return a map whose frame is the world of the scene."""
    folder = tmp_path_factory.mktemp('posed')
    make_map(folder)
    return read_content(folder)


@pytest.fixture(scope='module')
def solved(tmp_path_factory: pytest.TempPathFactory) -> MapContent:
    folder = tmp_path_factory.mktemp('solved')
    make_map(folder, posed=False)
    return read_content(folder)


@pytest.mark.parametrize('kind', KINDS)
def test_known_points_project_into_their_pixels(kind: str, posed: MapContent,
                                                tmp_path: Path) -> None:
    views = read_as(kind, posed, tmp_path)
    assert len(views) == len(POSES)
    for view in views:
        index = index_of(int(view.name.removesuffix('.png')))
        points, pixels = known_points(index)
        assert view.size == (WHOLE.height, WHOLE.width)
        # The centre of the first pixel is at (0.5, 0.5) in both formats.
        np.testing.assert_allclose(view.pixels_of(points), pixels + 0.5, atol=1e-5)


def inverted(view: SavedView) -> SavedView:
    return replace(view, map_from_camera=invert(view.map_from_camera))


def in_opengl_axes(view: SavedView) -> SavedView:
    return replace(view, map_from_camera=view.map_from_camera @ np.diag([1.0, -1.0, -1.0, 1.0]))


def of_the_networks_part(view: SavedView) -> SavedView:
    return replace(view, intrinsics=seen_by_network())


@pytest.mark.parametrize('kind', ['nerfstudio', 'text'])
@pytest.mark.parametrize('spoil', [inverted, in_opengl_axes, of_the_networks_part])
def test_that_check_fails_for_other_conventions(
        kind: str, spoil: Callable[[SavedView], SavedView], posed: MapContent,
        tmp_path: Path) -> None:
    spoilt = replace(posed, views=[spoil(view) for view in posed.views])
    with pytest.raises(AssertionError):
        test_known_points_project_into_their_pixels(kind, spoilt, tmp_path)


def test_transforms_to_colmap_and_back_are_the_identity(posed: MapContent, solved: MapContent,
                                                        tmp_path: Path) -> None:
    for content in (posed, solved):
        first = json.loads(encode_transforms(content, 'images', 'points.ply'))
        views = []
        for view, frame in zip(content.views, first['frames'], strict=True):
            pose = np.array(frame['transform_matrix']) @ np.diag([1.0, -1.0, -1.0, 1.0])
            camera = Intrinsics(first['fl_x'], first['fl_y'], first['cx'] - 0.5,
                                first['cy'] - 0.5, first['w'], first['h'])
            views.append(replace(view, map_from_camera=pose, intrinsics=camera))
        model = build_model(views, find_tracks(views[:2]))
        for name, data in encode_text(model).items():
            (tmp_path / name).write_bytes(data)
        back = [replace(view, map_from_camera=pose) for view, pose in zip(
            views, colmap_poses(tmp_path), strict=True)]
        second = json.loads(encode_transforms(replace(content, views=back), 'images',
                                              'points.ply'))
        for one, other in zip(first.pop('frames'), second.pop('frames'), strict=True):
            np.testing.assert_allclose(one.pop('transform_matrix'),
                                       other.pop('transform_matrix'), atol=1e-6)
            assert one == other
        assert first == second


def colmap_poses(folder: Path) -> Iterator[np.ndarray]:
    """Yield `map_from_camera` [4, 4] of images.txt, by the projection of points."""
    for view in by_text(folder):
        turn, shift = view.pixels_of.__defaults__[:2]
        camera_from_map = np.eye(4)
        camera_from_map[:3, :3], camera_from_map[:3, 3] = turn, shift
        yield np.linalg.inv(camera_from_map)


@pytest.fixture(scope='module')
def pycolmap() -> ModuleType:
    return pytest.importorskip('pycolmap', reason=NO_PYCOLMAP)


def test_text_and_binary_model_are_the_same_to_pycolmap(
        pycolmap: ModuleType, posed: MapContent, tmp_path: Path) -> None:
    files = export(posed, ['colmap', 'colmap-text'])
    models = []
    for suffix in ('.bin', '.txt'):
        folder = tmp_path / suffix
        folder.mkdir()
        for name, data in files.items():
            if name.endswith(suffix):
                (folder / Path(name).name).write_bytes(data)
        models.append(pycolmap.Reconstruction(folder))
    first, second = models
    assert first.num_images() == len(POSES) and first.num_points3D() > 100
    for one, other in zip(first.points3D.values(), second.points3D.values(), strict=True):
        np.testing.assert_array_equal(one.xyz, other.xyz)
        np.testing.assert_array_equal(one.color, other.color)
        assert [(item.image_id, item.point2D_idx) for item in one.track.elements] == [
            (item.image_id, item.point2D_idx) for item in other.track.elements]
    for number, one in first.images.items():
        other = second.images[number]
        np.testing.assert_allclose(one.cam_from_world().matrix(), other.cam_from_world().matrix(),
                                   atol=1e-12)
        np.testing.assert_array_equal([item.xy for item in one.points2D],
                                      [item.xy for item in other.points2D])


@pytest.mark.parametrize('name', ['posed', 'solved'])
def test_reprojection_on_synthetic_truth(pycolmap: ModuleType, name: str, tmp_path: Path,
                                         request: pytest.FixtureRequest) -> None:
    content = request.getfixturevalue(name)
    read_as('binary', content, tmp_path)
    model = pycolmap.Reconstruction(tmp_path)
    written = model.compute_mean_reprojection_error()
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() == pytest.approx(written, abs=1e-6)
    assert written <= MOST_REPROJECTION_PX
    assert min(len(one.track.elements) for one in model.points3D.values()) >= 2


def test_a_wrong_pose_shows_in_the_reprojection(posed: MapContent) -> None:
    # The observations come from the images: they do not follow the pose, here a turn of 3 px.
    turned = posed.views[2].map_from_camera.copy()
    turned[:3, :3] = turned[:3, :3] @ cv2.Rodrigues(np.array([0.0, 0.012, 0.0]))[0]
    views = [replace(view, map_from_camera=turned) if index == 2 else view
             for index, view in enumerate(posed.views)]
    assert find_tracks(posed.views).mean_found < 0.6
    assert find_tracks(views).mean_found > 1.0


@pytest.mark.parametrize('name', ['posed', 'solved'])
def test_points_of_the_model_lie_on_the_surfaces_of_the_room(
        name: str, request: pytest.FixtureRequest) -> None:
    content = request.getfixturevalue(name)
    tracks = find_tracks(content.views)
    world_from_map = np.eye(4) if name == 'posed' else POSES[0] @ invert(MAP_FROM_OPTICAL)
    distances = SCENE.distances(transform_points(world_from_map, tracks.points))
    assert np.quantile(distances, 0.9) < 0.02  # metres, of rooms of 5 m
    # Most observations found have a small error; few are left out.
    assert len(tracks.pixels) > 0.9 * tracks.found


def test_views_of_a_moved_fragment_follow_it(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    make_map(tmp_path)
    before = read_content(tmp_path)
    # As if a correction that was due when the map was saved had moved the fragment.
    place = np.diag([2.0, 2.0, 2.0, 1.0])
    place[:3, 3] = 1.0, -2.0, 0.5
    monkeypatch.setattr(Mapper, 'places', lambda _: {0: place})
    make_map(tmp_path)
    after = read_content(tmp_path)
    for one, other in zip(before.views, after.views, strict=True):
        np.testing.assert_allclose(other.map_from_camera[:3, 3],
                                   2.0 * one.map_from_camera[:3, 3] + place[:3, 3])
        np.testing.assert_allclose(other.map_from_camera[:3, :3], one.map_from_camera[:3, :3])
        np.testing.assert_allclose(other.depth(), 2.0 * one.depth())


def test_a_map_saved_while_images_stream_has_the_cloud_that_was_saved(tmp_path: Path) -> None:
    mapper = make_map(tmp_path, ended=False)
    content = read_content(tmp_path)
    # The newest frame waits for its final estimate: it is in cloud and path, and is no view yet.
    assert len(content.path) == len(POSES) == len(content.views) + 1
    with mapper.ended():
        np.testing.assert_array_equal(content.cloud.points, mapper.cloud().points)
        for view in content.views:
            np.testing.assert_allclose(view.map_from_camera, mapper.trajectory[
                index_of(view.stamp_ns)].world_from_camera, atol=1e-12)


def test_without_calibration_the_centre_is_that_of_the_image(tmp_path: Path) -> None:
    make_map(tmp_path, posed=False, calibration=None)
    content = read_content(tmp_path)
    assert content.calibration is None
    camera = content.views[-1].intrinsics
    assert (camera.width, camera.height) == (WHOLE.width, WHOLE.height)
    assert abs(camera.cx - 0.5 * (WHOLE.width - 1)) < 1.0
    assert abs(camera.cy - 0.5 * (WHOLE.height - 1)) < 1.0
    about = json.loads(export(content, ['nerfstudio'])['export.json'])
    assert about['camera']['calibrated'] is False


def test_images_keep_their_stamps_in_their_names(posed: MapContent, tmp_path: Path) -> None:
    assert [view.name for view in posed.views] == [
        f'{FIRST_NS + index * 100_000_000}.png' for index in range(len(POSES))]
    again = [posed.views[0], posed.views[0]]
    # A bag that is played twice has its stamps twice.
    assert len({view.name for view in _named([replace(view, number=number)
                                              for number, view in enumerate(again)])}) == 2
