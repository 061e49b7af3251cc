# SPDX-License-Identifier: Apache-2.0
"""The pack: one file with all photographs and meshes that places are made of.

It is made once from the fetched packages. Other machines need only the file.
"""
from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from spann3r_ros.core.files import write_files

from .asset_packages import PACKAGES, fetch_packages, find_photographs, read_copyright
from .furniture_meshes import FurnitureMesh, read_furniture

VERSION = 2
PHOTOGRAPH_SIZE, FURNITURE_SIZE = 256, 128  # pixels
CROPS_PER_PHOTOGRAPH = 5
SMALLEST_CROP = 0.3  # of the shorter side
QUALITY = 80
# The arrays of all meshes, and how the file has them.
MESH_ARRAYS = {'vertices': np.float16, 'uv': np.float32, 'faces': np.uint16, 'texture': np.int16,
               'tint': np.float16}

logger = logging.getLogger(__name__)


class PackError(ValueError):
    """A file is not a pack of this version; the message names it and the fault."""


@dataclass(frozen=True)
class PackedMesh:
    """A piece of furniture, as in `FurnitureMesh`, with the look of each triangle.

    `vertices` float32 [V, 3] in metres, `uv` float32 [V, 2] in tiles, downwards as image rows,
    `faces` int32 [T, 3], `texture` int32 [T] into the pack's textures, -1: none, and `tint`
    float32 [T, 3] in 0..1.
    """

    name: str
    category: str
    top: float
    elevation: float
    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    texture: np.ndarray
    tint: np.ndarray

    @cached_property
    def size(self) -> np.ndarray:
        """Return the extent [3] in metres."""
        return self.vertices.max(axis=0) - self.vertices.min(axis=0)


@dataclass(frozen=True)
class AssetPack:
    """Textures as JPEG files, the first `photographs` of which are of photographs, and meshes.

    `sources` are the packages, each with name, path, licences and copyright, which names authors.
    """

    textures: tuple[bytes, ...]
    photographs: int
    meshes: tuple[PackedMesh, ...]
    sources: tuple[dict[str, str], ...]

    def decode(self, index: int) -> np.ndarray:
        """Return a texture, uint8 RGB [h, w, 3]."""
        image = cv2.imdecode(np.frombuffer(self.textures[index], np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise PackError(f'texture {index}: expected a JPEG image')
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def default_pack() -> Path:
    """Return the path of the pack in the user's cache folder."""
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(cache).expanduser() / 'spann3r_ros' / 'places.npz'


def ensure_pack(path: Path) -> None:
    """Make the pack if the file does not exist; the packages are kept beside it."""
    if not path.is_file():
        logger.info('making the pack of assets %s from %s', path,
                    ', '.join(item.name for item in PACKAGES))
        make_pack(path.parent / 'packages', path)


def make_pack(folder: Path, path: Path, seed: int = 0) -> AssetPack:
    """Fetch the packages into `folder`, and write the pack of their content to `path`.

    ValueError without the package that reads meshes, AssetError for a package of assets that
    cannot be fetched.
    """
    if find_spec('trimesh') is None:
        raise ValueError("trimesh: expected this package, which reads meshes; install the extra "
                         "`places`: pip install 'spann3r_ros[places]'")
    folders = fetch_packages(folder)
    rng = np.random.default_rng(seed)
    textures: list[bytes] = []
    for image_path in tqdm(find_photographs(folders), 'photographs', unit='image'):
        textures += crop_photograph(image_path, rng)
    photographs = len(textures)
    catalogues = [catalogue for package in PACKAGES if package.content == 'meshes'
                  for catalogue in sorted(folders[package.name].rglob('*.sh3f'))]
    with tempfile.TemporaryDirectory() as scratch:
        meshes = [_packed(mesh, textures) for mesh in read_furniture(catalogues, Path(scratch))]
    # Single files may be unreadable; if all are, the reader is at fault.
    if not (photographs and meshes):
        raise PackError(f'{path}: expected photographs and meshes in the packages, got '
                        f'{photographs} and {len(meshes)}')
    sources = tuple({'name': item.name, 'path': item.path, 'licences': item.licences,
                     'copyright': read_copyright(item, folders[item.name])}
                    for item in PACKAGES)
    pack = AssetPack(tuple(textures), photographs, tuple(meshes), sources)
    write_pack(pack, path)
    return pack


def crop_photograph(path: Path, rng: np.random.Generator) -> list[bytes]:
    """Return square crops of an image as JPEG files, the first of the whole image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise PackError(f'{path}: expected an image')
    height, width = image.shape[:2]
    crops = [image]
    for _ in range(CROPS_PER_PHOTOGRAPH):
        side = round(min(height, width) * rng.uniform(SMALLEST_CROP, 1.0))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crops.append(image[top:top + side, left:left + side])
    return [_encode(crop, PHOTOGRAPH_SIZE) for crop in crops]


def _packed(mesh: FurnitureMesh, textures: list[bytes]) -> PackedMesh:
    """Return a mesh with its images appended to `textures`."""
    index, tint = [], []
    for material in mesh.materials:
        if material.image is None:
            index.append(-1)
            tint.append(material.color)
        else:
            index.append(len(textures))
            tint.append((1.0, 1.0, 1.0))
            textures.append(_encode(material.image[..., ::-1], FURNITURE_SIZE))
    return PackedMesh(
        mesh.name, mesh.category, mesh.top, mesh.elevation, mesh.vertices,
        mesh.uv * np.float32((1.0, -1.0)), mesh.faces,
        np.array(index, np.int32)[mesh.material], np.array(tint, np.float32)[mesh.material])


def _encode(image: np.ndarray, size: int) -> bytes:
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.imencode('.jpg', small, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1].tobytes()


def write_pack(pack: AssetPack, path: Path) -> None:
    """Write a pack, whole or not at all."""
    meta = {'version': VERSION, 'photographs': pack.photographs, 'sources': pack.sources,
            'meshes': [{'name': mesh.name, 'category': mesh.category, 'top': mesh.top,
                        'elevation': mesh.elevation} for mesh in pack.meshes]}
    arrays: dict[str, np.ndarray] = {
        'meta': np.array(json.dumps(meta)),
        'textures': np.frombuffer(b''.join(pack.textures), np.uint8),
        'texture_bytes': np.array([len(item) for item in pack.textures], np.int32),
        'vertex_counts': np.array([len(mesh.vertices) for mesh in pack.meshes], np.int32),
        'face_counts': np.array([len(mesh.faces) for mesh in pack.meshes], np.int32)}
    for name, kind in MESH_ARRAYS.items():
        whole = np.concatenate([getattr(mesh, name) for mesh in pack.meshes])
        arrays[name] = whole.astype(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_files({path: partial(np.savez_compressed, **arrays)})


def read_pack(path: Path) -> AssetPack:
    """Read a pack; PackError for a missing or another file."""
    if not path.is_file():
        raise PackError(f'{path}: expected a pack of assets; `spann3r pack-assets` makes it')
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
            meta = json.loads(str(arrays['meta']))
        if meta['version'] != VERSION:
            raise PackError(f'{path}: expected version {VERSION} of a pack, '
                            f'got {meta["version"]}')
        return _unpack(arrays, meta)
    except PackError:
        raise
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise PackError(f'{path}: expected a pack of assets: {error}') from error


def _unpack(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> AssetPack:
    content = arrays['textures'].tobytes()
    ends = np.cumsum([0, *arrays['texture_bytes']])
    textures = tuple(content[start:stop] for start, stop in pairwise(ends))
    vertices = np.cumsum([0, *arrays['vertex_counts']])
    faces = np.cumsum([0, *arrays['face_counts']])
    meshes = []
    for index, item in enumerate(meta['meshes']):
        corners = slice(vertices[index], vertices[index + 1])
        part = slice(faces[index], faces[index + 1])
        meshes.append(PackedMesh(
            **item, vertices=arrays['vertices'][corners].astype(np.float32),
            uv=arrays['uv'][corners].astype(np.float32),
            faces=arrays['faces'][part].astype(np.int32),
            texture=arrays['texture'][part].astype(np.int32),
            tint=arrays['tint'][part].astype(np.float32)))
    return AssetPack(textures, meta['photographs'], tuple(meshes), tuple(meta['sources']))
