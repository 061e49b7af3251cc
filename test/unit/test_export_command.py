# SPDX-License-Identifier: Apache-2.0
"""`spann3r export`: its files, the images of the keyframes, and input that it refuses."""
from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from exported_maps import (
    LENS,
    POSES,
    WHOLE,
    distorted_image,
    image,
    index_of,
    make_map,
    stamp_of,
)
from PIL import Image

from spann3r_ros.cli.main import main
from spann3r_ros.datasets.bag_writer import BagWriter
from spann3r_ros.mapping.exports import export_map, map_content
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import KeyframeConfig, MapperConfig

DISTORTED = replace(WHOLE, distortion=LENS)
ALL = 'ply,pcd,glb,tum,kitti,nerfstudio,colmap,colmap-text'


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('saved')
    make_map(folder)
    return folder


@pytest.fixture(scope='module')
def saved_distorted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('distorted')
    make_map(folder, calibration=DISTORTED, distorted=True)
    return folder


def jpeg(rgb: np.ndarray) -> bytes:
    return cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def photographs(folder: Path, images: Sequence[np.ndarray]) -> Path:
    """Write images under names that are not in their order."""
    folder.mkdir()
    for index, rgb in enumerate(images):
        (folder / f'IMG {(7 * index) % 31:02d}.JPG').write_bytes(jpeg(rgb))
    return folder


def transforms(output: Path) -> dict[str, object]:
    return json.loads((output / 'transforms.json').read_text())


def refused(arguments: Sequence[object], capsys: pytest.CaptureFixture) -> str:
    """Return the one line by which the command refuses its input."""
    assert main(['export', *map(str, arguments), '--quiet']) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_all_formats_of_a_map_are_written(saved: Path, tmp_path: Path,
                                          capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(saved / 'map', tmp_path / 'renamed')
    assert main(['export', str(tmp_path / 'renamed'), '--to', ALL]) == 0
    output = tmp_path / 'export'
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob('*.*')) == sorted([
        'export.json', 'map.glb', 'points.pcd', 'points.ply', 'trajectory.kitti',
        'trajectory.kitti.times', 'trajectory.tum', 'transforms.json',
        *(f'sparse/0/{name}{suffix}' for name in ('cameras', 'images', 'points3D')
          for suffix in ('.bin', '.txt'))])
    assert 'name their folder or bag by --images' in capsys.readouterr().out
    about = json.loads((output / 'export.json').read_text())
    assert about['metric'] is True and about['keyframes'] == len(POSES)
    assert about['camera'] == {'images': 'as recorded', 'model': 'PINHOLE', 'calibrated': True,
                               'width': WHOLE.width, 'height': WHOLE.height, 'cameras': 1}
    assert about['tracks']['mean_reprojection_px'] < 0.5
    first = {path: path.read_bytes() for path in output.rglob('*.*')}
    assert main(['export', str(tmp_path / 'renamed'), '--to', ALL]) == 0
    assert {path: path.read_bytes() for path in output.rglob('*.*')} == first
    # COLMAP would read a binary model that is left rather than the new text.
    assert main(['export', str(saved), '--to', 'colmap-text', '--output', str(output)]) == 0
    assert not list(output.rglob('*.bin'))


def test_photographs_are_recognised_and_keep_their_files(saved: Path, tmp_path: Path) -> None:
    folder = photographs(tmp_path / 'photos', [image(index) for index in range(len(POSES))])
    (folder / 'foreign.png').write_bytes(cv2.imencode('.png', image(0)[::-1])[1].tobytes())
    (folder / 'small.jpg').write_bytes(jpeg(image(0)[:100]))
    (folder / 'broken.jpg').write_bytes(jpeg(image(0))[:5000])
    output = tmp_path / 'out'
    assert main(['export', str(saved), '--to', 'nerfstudio,colmap-text', '--images', str(folder),
                 '--output', str(output), '--quiet']) == 0
    frames = transforms(output)['frames']
    for index, frame in enumerate(frames):
        name = f'IMG {(7 * index) % 31:02d}.JPG'
        # COLMAP's text ends a name at a space.
        assert frame['file_path'] == f'images/{name.replace(" ", "_")}'
        assert (output / frame['file_path']).read_bytes() == (folder / name).read_bytes()
        np.testing.assert_allclose(np.array(frame['transform_matrix'])[:3, 3], POSES[index][:3, 3])
    assert len(list((output / 'images').iterdir())) == len(POSES)
    names = {frame['file_path'].removeprefix('images/') for frame in frames}
    lines = (output / 'sparse/0/images.txt').read_text().splitlines()
    assert {line.split()[-1] for line in lines if line.endswith('.JPG')} == names


def test_photographs_with_an_orientation_are_written_as_mapped(saved: Path,
                                                               tmp_path: Path) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for index in range(len(POSES)):
        exif = Image.Exif()
        exif[0x0112] = 6  # stored on its side; the map was made of the upright images
        Image.fromarray(np.rot90(image(index))).save(folder / f'{index}.jpg', exif=exif,
                                                     quality=95)
    output = tmp_path / 'out'
    assert main(['export', str(saved), '--to', 'nerfstudio', '--images', str(folder),
                 '--output', str(output), '--quiet']) == 0
    for index in range(len(POSES)):
        written = cv2.imread(str(output / 'images' / f'{index}.png'))[..., ::-1]
        assert written.shape == image(index).shape
        assert np.abs(written.astype(int) - image(index)).mean() < 3.0


def test_photographs_with_a_damaged_orientation_keep_their_files(saved: Path,
                                                                tmp_path: Path) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for index in range(len(POSES)):
        exif = Image.Exif()
        exif[0x0112] = 9  # no orientation of the standard
        Image.fromarray(image(index)).save(folder / f'{index}.jpg', exif=exif, quality=95)
    output = tmp_path / 'out'
    assert main(['export', str(saved), '--to', 'nerfstudio', '--images', str(folder),
                 '--output', str(output), '--quiet']) == 0
    for path in folder.iterdir():
        assert (output / 'images' / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize('compressed', [True, False])
def test_images_of_a_bag_are_found_by_their_stamps(compressed: bool, saved: Path,
                                                   tmp_path: Path) -> None:
    topic = '/camera/image_raw' + ('/compressed' if compressed else '')
    with BagWriter(tmp_path / 'bag', 'mcap') as bag:
        for index in range(len(POSES)):
            for shift in (0, 7_000_000):  # between the keyframes there are other images
                if compressed:
                    bag.write_image(topic, stamp_of(index) + shift, jpeg(image(index)))
                else:
                    write_raw(bag, topic, stamp_of(index) + shift, image(index))
    output = tmp_path / 'out'
    assert main(['export', str(saved), '--to', 'nerfstudio', '--images', str(tmp_path / 'bag'),
                 '--output', str(output), '--quiet']) == 0
    frames = transforms(output)['frames']
    assert len(frames) == len(list((output / 'images').iterdir())) == len(POSES)
    for frame in frames:
        path = output / frame['file_path']
        index = index_of(int(path.stem))
        if compressed:
            assert path.read_bytes() == jpeg(image(index))
        else:
            np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image(index))


def write_raw(bag: BagWriter, topic: str, stamp_ns: int, rgb: np.ndarray) -> None:
    bag._write(topic, stamp_ns, 'sensor_msgs/msg/Image', header=bag._header(stamp_ns, 'camera'),
               height=rgb.shape[0], width=rgb.shape[1], encoding='rgb8', is_bigendian=0,
               step=3 * rgb.shape[1], data=rgb.reshape(-1))


@pytest.mark.parametrize('source', ['bag', 'folder'])
def test_images_of_a_lens_with_distortion_are_rectified(source: str, saved_distorted: Path,
                                                        tmp_path: Path) -> None:
    images = [distorted_image(index) for index in range(len(POSES))]
    folder = tmp_path / 'images'
    if source == 'bag':
        with BagWriter(folder, 'mcap') as bag:
            for index, rgb in enumerate(images):
                bag.write_image('/camera/image_raw/compressed', stamp_of(index), jpeg(rgb))
    else:
        photographs(folder, images)
    output = tmp_path / 'out'
    assert main(['export', str(saved_distorted), '--to', 'nerfstudio', '--images', str(folder),
                 '--output', str(output), '--quiet']) == 0
    content = transforms(output)
    # The intrinsics are those of a pinhole camera of the same matrix, and so are the images.
    for name, value in (('fl_x', WHOLE.fx), ('fl_y', WHOLE.fy), ('cx', WHOLE.cx + 0.5),
                        ('cy', WHOLE.cy + 0.5), ('w', WHOLE.width), ('h', WHOLE.height),
                        ('k1', 0.0)):
        assert content[name] == pytest.approx(value)
    assert json.loads((output / 'export.json').read_text())['camera']['images'] == 'rectified'
    for index, frame in enumerate(content['frames']):
        assert frame['file_path'].endswith('.png')
        written = cv2.imread(str(output / frame['file_path']))[..., ::-1].astype(int)
        inner = np.s_[40:-40, 50:-50]
        error = np.abs(written - image(index))[inner].mean()
        assert error < 0.5 * np.abs(images[index].astype(int) - image(index))[inner].mean()


def test_keyframes_without_an_image_are_left_out(saved: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture) -> None:
    few = photographs(tmp_path / 'few', [image(index) for index in range(4)])
    output = tmp_path / 'out'
    assert main(['export', str(saved), '--to', 'nerfstudio,colmap-text', '--images', str(few),
                 '--output', str(output), '--quiet']) == 0
    assert (f'2 of 6 keyframes are left out: their images are not in {few}, the first of stamp '
            f'{stamp_of(4)} ns') in capsys.readouterr().out
    assert len(transforms(output)['frames']) == len(list((output / 'images').iterdir())) == 4
    assert json.loads((output / 'export.json').read_text())['keyframes'] == 4


def test_images_of_others_and_of_another_size_are_refused(
        saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    others = photographs(tmp_path / 'others', [image(0)[::-1], image(1)[::-1]])
    output = '--output', tmp_path / 'out'
    assert f'images: expected images of the 6 keyframes in {others}, found none' in refused(
        [saved, '--to', 'colmap', '--images', others, *output], capsys)
    small = photographs(tmp_path / 'small', [image(0)[:200, :300]])
    assert 'expected images of 320x220 pixels' in refused(
        [saved, '--to', 'colmap', '--images', small, *output], capsys)
    assert 'images: expected one of the formats nerfstudio' in refused(
        [saved, '--to', 'ply', '--images', others, *output], capsys)
    with BagWriter(tmp_path / 'bag', 'mcap') as bag:
        bag.write_image('/camera/image_raw/compressed', stamp_of(0), jpeg(image(0)[:100]))
    assert 'images: expected 320x220 pixels as those of the map' in refused(
        [saved, '--to', 'colmap', '--images', tmp_path / 'bag', *output], capsys)
    assert 'nothing' in refused([saved, '--to', 'colmap', '--images', tmp_path / 'nothing',
                                 *output], capsys)


@pytest.mark.parametrize(('to', 'text'), [
    ('las', "to: expected some of ply, pcd, mesh, glb, tum, kitti, nerfstudio, colmap, "
            "colmap-text, separated by commas, got 'las'"),
    ('ply,las', "got 'las'"), (',', "got ','")])
def test_unknown_formats_are_refused(to: str, text: str, saved: Path, tmp_path: Path,
                                     capsys: pytest.CaptureFixture) -> None:
    assert text in refused([saved, '--to', to, '--output', tmp_path / 'out'], capsys)
    assert not (tmp_path / 'out').exists()


def test_folders_without_a_map_are_refused(tmp_path: Path,
                                           capsys: pytest.CaptureFixture) -> None:
    text = refused([tmp_path, '--to', 'ply'], capsys)
    assert f'{tmp_path}: expected the directory of a saved map' in text


def test_damaged_maps_are_refused(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(saved / 'map', tmp_path / 'map')
    (tmp_path / 'map' / 'map.ply').write_bytes((tmp_path / 'map' / 'map.ply').read_bytes()[:-9])
    assert 'map.ply: expected' in refused([tmp_path, '--to', 'ply'], capsys)
    monkeypatch.setattr(Mapper, 'places', lambda _: {0: np.zeros((4, 4))})
    make_map(tmp_path)
    assert 'places.map_from_fragment: expected similarities' in refused(
        [tmp_path, '--to', 'ply'], capsys)


def test_maps_without_the_calibration_of_their_images_are_refused(
        saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(saved / 'map', tmp_path / 'map')
    state, manifest = tmp_path / 'map' / 'state.json', tmp_path / 'map' / 'manifest.json'
    content = json.loads(state.read_text())
    del content['state']['calibration']
    state.write_text(json.dumps(content))
    entries = json.loads(manifest.read_text())
    entries['files']['state.json'] = {'bytes': state.stat().st_size, 'sha256': hashlib.sha256(
        state.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(entries))
    assert 'state.calibration: expected that of the images' in refused(
        [tmp_path, '--to', 'colmap'], capsys)


def test_a_map_whose_keyframes_have_no_views_has_clouds_only(
        saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    read = map_content.read_content
    monkeypatch.setattr(map_content, 'read_content',
                        lambda folder: replace(read(folder), views=[]))
    output = '--output', str(tmp_path / 'out')
    assert ('to: expected a map with keyframes that are kept, with image and depth for '
            'nerfstudio, colmap, this one has none') in refused(
        [saved, '--to', 'ply,nerfstudio,colmap', *output], capsys)
    assert main(['export', str(saved), '--to', 'ply,pcd,glb,tum,kitti', *output]) == 0


def test_an_empty_map_is_refused(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    read = map_content.read_content
    nothing = VoxelCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8),
                         np.zeros(0, np.float32))
    monkeypatch.setattr(map_content, 'read_content',
                        lambda folder: replace(read(folder), cloud=nothing, path=[]))
    output = '--output', tmp_path / 'out'
    assert 'to: expected a map with points for ply, glb, this one has none' in refused(
        [saved, '--to', 'tum,ply,glb', *output], capsys)
    assert 'to: expected a map with poses for tum' in refused(
        [saved, '--to', 'tum', *output], capsys)
    assert not (tmp_path / 'out').exists()


def test_keyframes_that_were_removed_are_left_out(tmp_path: Path) -> None:
    config = MapperConfig(keyframes=KeyframeConfig(max_bytes=200_000))
    mapper = make_map(tmp_path, config=config)
    kept = mapper.status().kept
    assert kept.evicted > 0
    content = map_content.read_content(tmp_path)
    assert len(content.views) == kept.keyframes < len(content.path) == len(POSES)
    files = export_map.export(content, ['colmap-text'])
    about = json.loads(files['export.json'])
    assert about['keyframes'] == kept.keyframes and about['poses'] == len(POSES)
