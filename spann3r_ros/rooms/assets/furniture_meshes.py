# SPDX-License-Identifier: Apache-2.0
"""Meshes of furniture, read from the catalogues of Sweet Home 3D."""
from __future__ import annotations

import logging
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

CATALOGUE = 'PluginFurnitureCatalog.properties'
ROOM_CATEGORIES = ('Living room', 'Miscellaneous', 'Kitchen', 'Bedroom', 'Bathroom', 'Office',
                   'Doors and windows', 'Lights')
# Denser meshes cost more to render than they add in images of this size.
MOST_TRIANGLES = 6000
LARGEST_METRES = 3.5
SMALLEST_METRES = 0.05
# Some models lie on their side; the catalogue has a rotation, row by row, that puts them upright.
IDENTITY = '1 0 0 0 1 0 0 0 1'
# Materials that let more light through than this are left out.
LEAST_OPACITY = 0.5
# Textures that are repeated more often are noise, in float32 as well.
MOST_TILES = 1000.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """A colour, RGB in 0..1, and the image that covers it, uint8 [h, w, 3]; None: plain."""

    color: tuple[float, float, float]
    image: np.ndarray | None


@dataclass(frozen=True)
class FurnitureMesh:
    """A piece of furniture in metres, z up, its front towards -y.

    It stands on z = 0, with the centre of its footprint at x = y = 0. `vertices` float32 [V, 3],
    `uv` float32 [V, 2] in tiles of the material's image with v upwards, `faces` int32 [T, 3] and
    `material` int32 [T]. Small things can stand on it at the height `top`, NaN: nothing can.
    `elevation` is the height at which it hangs. `category` is that of the catalogue.
    """

    name: str
    category: str
    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    materials: tuple[Material, ...]
    top: float
    elevation: float


def read_furniture(catalogues: list[Path], scratch: Path) -> Iterator[FurnitureMesh]:
    """Yield the usable meshes of `.sh3f` catalogues, which are unpacked below `scratch`."""
    for path in catalogues:
        folder = scratch / path.stem
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        entries = read_catalogue(folder / CATALOGUE)
        for entry in tqdm(entries, path.stem, unit='mesh'):
            mesh = read_mesh(folder, entry)
            if mesh is not None:
                yield mesh


def read_catalogue(path: Path) -> list[dict[str, str]]:
    """Return the entries of a catalogue, their properties by name, in order."""
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    for line in path.read_text(encoding='latin-1').splitlines():
        match = re.fullmatch(r'(\w+)#(\d+)=(.*)', line.strip())
        if match:
            entries[int(match[2])][match[1]] = match[3]
    return [entries[number] for number in sorted(entries)]


def read_mesh(folder: Path, entry: dict[str, str]) -> FurnitureMesh | None:
    """Return the mesh of a catalogue's entry; None for one that is of no use in a room.

    Its extent is that of the catalogue.
    """
    size = np.array([float(entry[name]) / 100.0 for name in ('width', 'depth', 'height')])
    path = folder / entry['model'].lstrip('/')
    if (entry['category'] not in ROOM_CATEGORIES or path.suffix != '.obj'
            or size.max() > LARGEST_METRES or size.max() < SMALLEST_METRES):
        return None
    parts = read_parts(path)
    count = sum(len(part[2]) for part in parts)
    if not 0 < count <= MOST_TRIANGLES:
        return None
    upright = np.array(entry.get('modelRotation', IDENTITY).split(), float).reshape(3, 3)
    vertices = np.concatenate([part[0] for part in parts]) @ upright.T
    vertices = vertices[:, (0, 2, 1)] * (1.0, -1.0, 1.0)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / np.maximum(high - low, 1e-9) * size
    vertices[:, 2] += size[2] / 2
    starts = np.cumsum([0, *(len(part[0]) for part in parts)])
    faces = np.concatenate([part[2] + start for part, start in zip(parts, starts, strict=False)])
    material = np.repeat(np.arange(len(parts)), [len(part[2]) for part in parts])
    top = float(entry.get('dropOnTopElevation', 'nan' if size[2] > 1.3 else size[2] * 100)) / 100
    return FurnitureMesh(
        entry['id'], entry['category'], vertices.astype(np.float32),
        np.concatenate([part[1] for part in parts]).astype(np.float32), faces.astype(np.int32),
        material.astype(np.int32), tuple(part[3] for part in parts),
        top if top > 0.0 else float('nan'), float(entry.get('elevation', 0.0)) / 100)


Part = tuple[np.ndarray, np.ndarray, np.ndarray, Material]


def read_parts(path: Path) -> list[Part]:
    """Return (vertices, uv, faces, material) of each opaque material of an OBJ file."""
    import trimesh
    try:
        scene = trimesh.load(path, force='scene', process=False, group_material=True)
    # Whatever is wrong with one of hundreds of files, the others serve.
    except Exception as error:
        logger.warning('%s is left out: %s: %s', path.name, type(error).__name__, error)
        return []
    parts = []
    for mesh in scene.geometry.values():
        if not hasattr(mesh, 'faces') or not len(mesh.faces):
            continue
        found = getattr(mesh.visual, 'material', None)
        opacity = float((getattr(found, 'kwargs', {}).get('d') or ['1'])[0])
        if opacity < LEAST_OPACITY or 'glass' in str(getattr(found, 'name', '')).lower():
            continue
        uv = getattr(mesh.visual, 'uv', None)
        image = getattr(found, 'image', None) if uv is not None else None
        if uv is not None and np.abs(uv).max() > MOST_TILES:
            image = None
        color = np.array(getattr(found, 'diffuse', (200, 200, 200)), float)[:3] / 255.0
        places = np.zeros((len(mesh.vertices), 2)) if uv is None else np.array(uv, float)
        if not np.isfinite(places).all() or not np.isfinite(mesh.vertices).all():
            logger.warning('%s: a part whose coordinates are not finite is left out',
                           path.name)
            continue
        parts.append((
            np.array(mesh.vertices, float), places, np.array(mesh.faces), Material(
                tuple(color.tolist()),
                None if image is None else np.array(image.convert('RGB')))))
    return parts
