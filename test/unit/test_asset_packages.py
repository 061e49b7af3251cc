# SPDX-License-Identifier: Apache-2.0
"""Assets of places: Debian packages, catalogues of furniture, photographs."""
from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from spann3r_ros.rooms.assets import asset_pack, asset_packages
from spann3r_ros.rooms.assets.asset_pack import ensure_pack, read_pack
from spann3r_ros.rooms.assets.asset_packages import AssetError, AssetPackage, fetch_packages
from spann3r_ros.rooms.assets.furniture_meshes import read_mesh

needs_dpkg = pytest.mark.skipif(shutil.which('dpkg-deb') is None,
                                reason='dpkg-deb, which makes and unpacks packages, is missing')

CONTROL = 'Package: {}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: none\n'
CATALOGUE = """id#1=Test#seat
name#1=Seat
category#1=Office
model#1=/seat/seat.obj
width#1=60
depth#1=40
height#1=100
elevation#1=0
dropOnTopElevation#1=45.5
id#2=Test#car
category#2=Vehicles
model#2=/seat/seat.obj
width#2=200
depth#2=400
height#2=150
"""
# A floor plate, and a plate with an image at its front: z of the file is to the front, y up.
OBJ = """mtllib seat.mtl
v -3 0 -2
v 3 0 -2
v 3 0 2
v -3 0 2
v -3 10 2
v 3 10 2
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl plain
f 1/1 2/2 3/3 4/4
usemtl printed
f 4/1 3/2 6/3 5/4
usemtl window
f 1/1 2/2 3/3
"""
MTL = """newmtl plain
Kd 1 0 0
newmtl printed
Kd 1 1 1
map_Kd print.png
newmtl window
Kd 1 1 1
d 0.1
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that serves as the archive, with one package of meshes and one of photographs."""
    pool = tmp_path / 'pool'
    pool.mkdir()
    packages = (build_package(pool, 'meshes', write_catalogue),
                build_package(pool, 'photographs', write_photographs))
    for module in (asset_packages, asset_pack):
        monkeypatch.setattr(module, 'PACKAGES', packages)
    monkeypatch.setattr(asset_packages, 'ARCHIVES', ('file:///missing/', pool.as_uri() + '/'))
    return pool


def build_package(pool: Path, content: str, write: callable) -> AssetPackage:
    root = pool / content
    (root / 'DEBIAN').mkdir(parents=True)
    (root / 'DEBIAN' / 'control').write_text(CONTROL.format(content))
    write(root / 'usr')
    file = pool / f'{content}.deb'
    subprocess.run(['dpkg-deb', '--build', root, file], check=True, capture_output=True)
    return AssetPackage(content, file.name, hashlib.sha256(file.read_bytes()).hexdigest(),
                        content, 'CC0-1.0')


def write_catalogue(folder: Path) -> None:
    folder.mkdir()
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4] = (0, 255, 0)  # the upper half is green
    with zipfile.ZipFile(folder / 'test.sh3f', 'w') as file:
        file.writestr('PluginFurnitureCatalog.properties', CATALOGUE)
        file.writestr('seat/seat.obj', OBJ)
        file.writestr('seat/seat.mtl', MTL)
        file.writestr('seat/print.png', cv2.imencode('.png', image)[1].tobytes())


def write_photographs(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 320, 3), np.uint8)
    for name, size in (('hills/320x200.png', 1), ('hills/160x100.png', 2), ('river.png', 1),
                       ('hills/screenshot.png', 1)):
        path = folder / 'share' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), noise[::size, ::size])
    (folder / 'share' / 'small.png').write_bytes(b'a preview')


@needs_dpkg
def test_pack_is_made_from_packages(archive: Path, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'cache' / 'places.npz'
    ensure_pack(path)
    pack = read_pack(path)
    # Two photographs, the larger file of the first one, each with its crops.
    assert pack.photographs == 2 * (1 + asset_pack.CROPS_PER_PHOTOGRAPH)
    assert len(pack.textures) == pack.photographs + 1
    assert [mesh.name for mesh in pack.meshes] == ['Test#seat']
    assert [item['licences'] for item in pack.sources] == ['CC0-1.0', 'CC0-1.0']
    # Nothing is fetched or made again.
    monkeypatch.setattr(asset_packages, 'ARCHIVES', ('file:///nowhere/',))
    before = path.stat().st_mtime_ns
    ensure_pack(path)
    assert path.stat().st_mtime_ns == before
    assert set(fetch_packages(path.parent / 'packages')) == {'meshes', 'photographs'}


@needs_dpkg
def test_mesh_has_the_size_of_the_catalogue_and_its_front_towards_minus_y(
        archive: Path, tmp_path: Path) -> None:
    ensure_pack(tmp_path / 'places.npz')
    pack = read_pack(tmp_path / 'places.npz')
    mesh = pack.meshes[0]
    assert np.allclose(mesh.size, (0.6, 0.4, 1.0), atol=2e-3)
    assert np.allclose((mesh.vertices.min(0) + mesh.vertices.max(0))[:2], 0.0, atol=2e-3)
    assert mesh.vertices[:, 2].min() == pytest.approx(0.0, abs=1e-3)
    assert (mesh.top, mesh.elevation) == (0.455, 0.0)
    # The transparent part is left out.
    assert len(mesh.faces) == 4
    printed = mesh.texture >= 0
    assert printed.sum() == 2
    assert np.allclose(mesh.tint[~printed], (1.0, 0.0, 0.0))
    corners = mesh.vertices[mesh.faces[printed]]
    assert np.allclose(corners[..., 1], -0.2, atol=2e-3)
    # The image stands upright: rows of the texture run downwards, modulo whole tiles.
    rows = mesh.uv[mesh.faces[printed]][..., 1]
    high = corners[..., 2] > 0.5
    assert rows[high].max() < rows[~high].min()
    green = pack.decode(int(mesh.texture[printed][0]))[:60].reshape(-1, 3).mean(0)
    assert green[1] > 200 and green[0] < 50


@needs_dpkg
def test_package_with_another_checksum_is_refused(archive: Path, tmp_path: Path) -> None:
    with (archive / 'meshes.deb').open('ab') as file:
        file.write(b'x')
    with pytest.raises(AssetError, match='meshes: expected the SHA-256'):
        fetch_packages(tmp_path / 'out')
    assert not (tmp_path / 'out' / 'meshes').exists()


@needs_dpkg
def test_package_that_cannot_be_fetched_is_named(archive: Path, tmp_path: Path) -> None:
    (archive / 'photographs.deb').unlink()
    with pytest.raises(AssetError, match='photographs: cannot fetch file://'):
        fetch_packages(tmp_path / 'out')
    assert (tmp_path / 'out' / 'meshes').is_dir()
    assert not (tmp_path / 'out' / 'photographs').exists()


def test_catalogue_turns_a_model_upright(tmp_path: Path) -> None:
    """The rotation takes y of the file to -z, and z to y."""
    (tmp_path / 'seat').mkdir()
    (tmp_path / 'seat' / 'seat.obj').write_text(OBJ)
    (tmp_path / 'seat' / 'seat.mtl').write_text('newmtl plain\nKd 1 0 0\n')
    entry = {'id': 'seat', 'category': 'Office', 'model': '/seat/seat.obj', 'width': '60',
             'depth': '100', 'height': '40', 'modelRotation': '1 0 0 0 0 1 0 -1 0'}
    mesh = read_mesh(tmp_path, entry)
    assert np.allclose(np.ptp(mesh.vertices, axis=0), (0.6, 1.0, 0.4), atol=1e-3)
    # What was the high edge of the plate is now at the back, on top.
    assert np.allclose(mesh.vertices[np.argmax(mesh.vertices[:, 1]), 1:], (0.5, 0.4), atol=1e-3)


def test_missing_dpkg_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, 'which', lambda _: None)
    with pytest.raises(AssetError, match='dpkg-deb: expected this program'):
        fetch_packages(tmp_path)
