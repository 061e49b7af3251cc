# SPDX-License-Identifier: Apache-2.0
"""Evidence and grid as a part of a map: moved, bounded, saved, loaded, copied."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from grid_rooms import FREE, OCCUPIED, PILLAR, UNKNOWN, Rig, keyframe, room, walk_around
from mapper_runs import CAMERA, SCENE, make_mapper
from PIL import Image
from scipy.spatial.transform import Rotation
from synthetic import SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.occupancy.evidence_layer import HIT
from spann3r_ros.mapping.occupancy.free_space import DepthView, free_cells
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.occupancy.moved_evidence import moved_blocks
from spann3r_ros.mapping.occupancy.occupancy_grid import Grid, GridView
from spann3r_ros.mapping.occupancy.occupancy_store import (
    CELLS,
    EDGE,
    EvidenceBlocks,
    cells_of,
    pack,
    unpack,
)
from spann3r_ros.mapping.storage.map_directory import encode_map, read_map
from spann3r_ros.mapping.storage.saved_tree import SavedNode, decode_tree, encode_tree

POSES = orbit_trajectory(30)[:12]
FRAMES = render_frames(SCENE, POSES, CAMERA, indexed=True)
INDEXED = SyntheticOptions(index_from_image=True)
FORCED = MapperConfig(grid=GridConfig(force=True))


def mapped(count: int, config: MapperConfig = FORCED) -> Mapper:
    mapper = make_mapper(POSES, INDEXED, config)
    for frame in FRAMES[:count]:
        mapper.process(frame)
    return mapper


def grid_of(mapper: Mapper) -> Grid:
    return GridView()(mapper.grid_snapshot())


def evidence(mapper: Mapper) -> list[np.ndarray]:
    blocks = [part.blocks for part in mapper.grid_snapshot().parts]
    return [array for one in blocks for array in (one.keys, one.evidence)]


def assert_same(first: Mapper, second: Mapper) -> None:
    for one, other in zip(evidence(first), evidence(second), strict=True):
        np.testing.assert_array_equal(one, other)


def occupied(grid: Grid) -> np.ndarray:
    """Return the centres [n, 2] of the occupied cells."""
    row, column = np.nonzero(grid.values == OCCUPIED)
    return (np.stack([column, row], axis=1) + 0.5) * grid.resolution + grid.origin[:2]


def in_camera(view: DepthView, blocks: np.ndarray, cell_size: float) -> np.ndarray:
    """Return the centres [n, 512, 3] of the cells of blocks [n, 3] in the camera."""
    inside = np.array(list(np.ndindex(EDGE, EDGE, EDGE)))
    centres = (blocks[:, None] * EDGE + inside + 0.5) * cell_size
    return (centres - view.fragment_from_camera[:3, 3]) @ view.fragment_from_camera[:3, :3]


def expected_weights(view: DepthView, blocks: np.ndarray, cell_size: float) -> np.ndarray:
    """Return the weights of all cells of blocks [n, 3], by the definition."""
    camera, (x, y, z) = view.intrinsics, np.moveaxis(in_camera(view, blocks, cell_size), -1, 0)
    ahead = z > cell_size
    z = np.where(ahead, z, 1.0)
    column = np.floor(camera.fx * x / z + camera.cx + 0.5).astype(int)
    row = np.floor(camera.fy * y / z + camera.cy + 0.5).astype(int)
    ahead &= (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    row, column = np.where(ahead, row, 0), np.where(ahead, column, 0)
    return np.where(ahead & (z < view.limit[row, column]), view.weight[row, column], 0)


@pytest.mark.parametrize('rough', [True, False])
def test_free_cells_are_those_whose_centre_is_seen(rough: bool) -> None:
    rng = np.random.default_rng(3)
    limit = np.full((96, 96), 2.5, np.float32)
    if rough:
        limit = rng.uniform(0.3, 1.6, (96, 96)).astype(np.float32)
        limit[rng.random(limit.shape) < 0.3] = 0.0
        limit[30:40] = 2.5
    pose = walk_around()[5].copy()
    pose[:3, 3] += 1000.0  # far from the origin
    view = DepthView(pose, CAMERA, limit, rng.integers(1, 18, limit.shape, np.uint8))
    keys, weights = free_cells(view, 0.11)
    assert (np.diff(keys) > 0).all() and weights.any(axis=1).all()
    blocks = unpack(keys)
    # float32 may put a centre on the other side of the border of a pixel.
    assert np.mean(weights != expected_weights(view, blocks, 0.11)) < 1e-3
    assert not weights[in_camera(view, blocks, 0.11)[..., 2] < 0.109].any()
    # No block with a free cell is missing: all others around have none.
    around = np.stack(np.meshgrid(*(np.arange(a - 2, b + 3) for a, b in zip(
        blocks.min(axis=0), blocks.max(axis=0), strict=True))), axis=-1).reshape(-1, 3)
    beside = around[~np.isin(pack(around), keys)]
    assert np.count_nonzero(expected_weights(view, beside, 0.11).any(axis=1)) == 0


def test_cell_with_a_point_is_not_free() -> None:
    """A near edge covers a part of a cell, and a pixel beside it sees past through its centre."""
    for edge in range(36, 46):
        near = keyframe(room(), walk_around()[0])
        near.depth[:, :edge], near.depth[:, edge:] = 0.6, 3.0
        rig = Rig()
        rig.add([near])
        keys, cells = cells_of(near.points[:, edge - 1], rig.stores[0].cell_size)
        blocks = rig.stores[0].blocks()
        found = blocks.evidence[np.searchsorted(blocks.keys, keys), cells]
        assert (found == round(HIT * 0.9)).all()


def similarity(scale: float) -> np.ndarray:
    place = np.eye(4)
    place[:3, :3] = scale * Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix()
    place[:3, 3] = 3.1, -0.7, 0.4
    return place


@pytest.mark.parametrize('scale', [0.4, 1.0, 2.3])
def test_moved_evidence_has_no_holes_and_loses_nothing_thin(scale: float) -> None:
    """A solid ball of free cells stays solid, and single occupied cells in it stay occupied."""
    rng, radius = np.random.default_rng(5), 1.0
    blocks = np.stack(np.meshgrid(*[np.arange(-3, 3)] * 3), axis=-1).reshape(-1, 3)
    blocks = blocks[np.argsort(pack(blocks))]
    inside = np.array(list(np.ndindex(EDGE, EDGE, EDGE)))
    centres = (blocks[:, None] * EDGE + inside + 0.5) * 0.05
    evidence = np.where(np.linalg.norm(centres, axis=-1) < radius, -40, 0).astype(np.int8)
    row, cell = (one[rng.permutation(len(one))[:40]] for one in np.nonzero(evidence))
    evidence[row, cell] = 60
    place = similarity(scale)
    moved = moved_blocks(EvidenceBlocks(pack(blocks), evidence, 0.05), place, 0.05, 28)
    assert (np.diff(moved.keys) > 0).all()
    points = rng.normal(size=(5000, 3))
    points *= rng.uniform(0.0, 0.9, (5000, 1)) / np.linalg.norm(points, axis=1)[:, None]
    keys, cells = cells_of(points @ place[:3, :3].T + place[:3, 3], 0.05)
    rows = np.searchsorted(moved.keys, keys)
    assert (moved.keys[rows] == keys).all() and (moved.evidence[rows, cells] != 0).all()
    if scale <= 1.0:
        keys, cells = cells_of(centres[row, cell] @ place[:3, :3].T + place[:3, 3], 0.05)
        found = moved.evidence[np.searchsorted(moved.keys, keys), cells]
        # Of equal size, a cell may contain the centre of no cell of the map.
        assert np.mean(found == 60) == (1.0 if scale < 1.0 else pytest.approx(0.7, abs=0.3))


def test_grid_follows_a_fragment_that_moves() -> None:
    mapper = mapped(12)
    before = occupied(grid_of(mapper))
    place = np.eye(4)
    place[:2, :2] = Rotation.from_euler('z', 31, degrees=True).as_matrix()[:2, :2]
    place[:3, 3] = 2.03, -4.01, 0.2
    mapper.move_fragment(0, place)
    after = occupied(grid_of(mapper))
    expected = before @ place[:2, :2].T + place[:2, 3]
    distance = np.abs(expected[:, None] - after).max(axis=2).min(axis=1)
    assert len(before) > 100
    assert np.mean(distance < 0.06) > 0.98


def test_reason_for_a_map_without_a_grid() -> None:
    assert make_mapper(POSES, INDEXED, FORCED).status().grid_reason == 'the map is empty'
    assert mapped(3).status().grid_reason == ''
    plain = mapped(3, MapperConfig())
    assert plain.grid_reason == 'the scale of the map is not known'
    off = mapped(3, MapperConfig(grid=GridConfig(enabled=False, force=True)))
    assert off.grid_reason == 'grid.enabled is false'
    plain._state.atlas.current.scale = plain._state.atlas.current.scale.__class__(metric=True)
    assert plain.grid_reason == 'the map is not level'


def test_same_images_give_the_same_evidence_and_the_layer_changes_nothing_else() -> None:
    first, second = mapped(8), mapped(8)
    assert_same(first, second)
    without = mapped(8, MapperConfig(grid=GridConfig(enabled=False)))
    np.testing.assert_array_equal(first.cloud().points, without.cloud().points)


def test_map_that_is_read_back_goes_on_as_before(tmp_path: Path) -> None:
    whole, part = mapped(12), mapped(7)
    encode_map(part).write(tmp_path)
    loaded = make_mapper(POSES, INDEXED, FORCED)
    loaded.load(read_map(tmp_path))
    assert_same(part, loaded)
    for frame in FRAMES[7:]:
        loaded.process(frame)
    assert_same(whole, loaded)


def test_map_that_was_saved_without_evidence_is_read() -> None:
    tree = mapped(5, MapperConfig(grid=GridConfig(enabled=False))).tree()
    assert list(tree['layers']) == ['voxels']
    loaded = make_mapper(POSES, INDEXED, FORCED)
    loaded.load(decode_tree(*encode_tree(tree)))
    assert loaded.grid_snapshot().parts == []
    for frame in FRAMES[5:]:
        loaded.process(frame)
    assert len(loaded.grid_snapshot().parts) == 1
    # And the other way round.
    plain = make_mapper(POSES, INDEXED, MapperConfig(grid=GridConfig(enabled=False)))
    plain.load(decode_tree(*encode_tree(mapped(5).tree())))
    assert plain.status().voxels > 0


def saved_part(name: str, value: Any) -> SavedNode:  # noqa: ANN401
    """Return a saved map with one entry of its evidence replaced."""
    tree = copy.deepcopy(mapped(3).tree())
    tree['state']['atlas']['fragments'][0]['stores']['occupancy'][name] = value
    return decode_tree(*encode_tree(tree))


@pytest.mark.parametrize(('name', 'spoil'), [
    ('keys', lambda array: array[::-1]), ('keys', lambda array: -array[::-1]),
    ('evidence', lambda array: np.full_like(array, 100)),
    ('evidence', lambda array: array[:-1]), ('observed_at', lambda array: array + 1000),
    ('cell_size', lambda size: 0.0)])
def test_spoilt_evidence_is_refused(name: str, spoil: Any) -> None:  # noqa: ANN401
    value = mapped(3).tree()['state']['atlas']['fragments'][0]['stores']['occupancy'][name]
    mapper = mapped(4)
    before = evidence(mapper)
    with pytest.raises(ValueError, match=f'occupancy.{name}'):
        mapper.load(saved_part(name, spoil(value)))
    for one, other in zip(before, evidence(mapper), strict=True):
        np.testing.assert_array_equal(one, other)


def test_map_as_if_it_had_ended_leaves_the_evidence_as_it_was() -> None:
    mapper, other = mapped(6), mapped(6)
    with mapper.ended():
        assert not np.array_equal(evidence(mapper)[1], evidence(other)[1])
    assert_same(mapper, other)
    for one in (mapper, other):
        one.process(FRAMES[6])
    assert_same(mapper, other)


def test_snapshot_does_not_change() -> None:
    mapper = mapped(5)
    part, = mapper.grid_snapshot().parts
    before = part.blocks.evidence.copy()
    mapper.process(FRAMES[5])
    np.testing.assert_array_equal(part.blocks.evidence, before)


def test_least_recently_observed_evidence_is_removed_beyond_the_bound() -> None:
    config = GridConfig(max_cells=500_000)
    rig, free = Rig(config), Rig()
    poses = walk_around(8)
    for n, pose in enumerate(poses):
        if n == 24:
            for one in (rig, free):
                one.begin()
        for one in (rig, free):
            one.add([keyframe(room(PILLAR), pose, seed=n)])
        assert CELLS * sum(map(len, rig.stores)) <= config.max_cells
    assert rig.layer.evicted > 0 and CELLS * sum(map(len, free.stores)) > config.max_cells
    # What is left of the newest fragment is what the newest keyframes saw.
    kept, all_ = rig.stores[1], free.stores[1]
    assert kept.observed_at.max() == all_.observed_at.max()
    newest = all_.blocks().keys[all_.observed_at == all_.observed_at.max()]
    assert np.isin(newest, kept.blocks().keys).all()


def read_as_map_server(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the cells [rows, columns] and the description of a map, by the rules of Nav2."""
    description = yaml.safe_load((folder / 'map.yaml').read_text())
    shade = np.asarray(Image.open(folder / description['image'])).astype(float) / 255.0
    occupancy = shade if description['negate'] else 1.0 - shade
    cells = np.full(shade.shape, UNKNOWN, np.int8)
    cells[occupancy > description['occupied_thresh']] = OCCUPIED
    cells[occupancy < description['free_thresh']] = FREE
    return cells[::-1], description


def test_saved_map_has_a_grid_for_map_server(tmp_path: Path) -> None:
    mapper = mapped(12)
    folder = encode_map(mapper).write(tmp_path)
    grid = grid_of(mapper)
    cells, description = read_as_map_server(folder)
    np.testing.assert_array_equal(cells, grid.values)
    assert {UNKNOWN, FREE, OCCUPIED} <= set(np.unique(cells))
    assert description['resolution'] == 0.05 and description['mode'] == 'trinary'
    assert description['origin'] == [*grid.origin[:2], 0.0]
    encode_map(mapped(12, MapperConfig())).write(tmp_path)
    assert not (folder / 'map.pgm').exists() and not (folder / 'map.yaml').exists()


def test_heights_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r'min_height: expected less than max_height, got 2.0'):
        GridConfig(min_height=2.0)
