# SPDX-License-Identifier: Apache-2.0
"""Places: geometry, light, cameras, and the pack of assets."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_pack import small_pack

from spann3r_ros.rooms.assets.asset_pack import PackError, read_pack, write_pack
from spann3r_ros.rooms.places import place_drawing
from spann3r_ros.rooms.places.camera_effects import compress
from spann3r_ros.rooms.places.camera_walks import CLEARANCE, draw_walk
from spann3r_ros.rooms.places.drawn_ahead import PlaceDrawings
from spann3r_ros.rooms.places.place import Obstacle, Place
from spann3r_ros.rooms.places.place_drawing import _drawn, draw_place
from spann3r_ros.rooms.places.place_generator import (
    LitPlace,
    PlaceBatch,
    PlaceConfig,
    PlaceGenerator,
)
from spann3r_ros.rooms.places.place_shading import PlaceTable, Samples, ShadowCube, sample_depth
from spann3r_ros.rooms.places.surfaces import Look, SurfaceBuilder
from spann3r_ros.rooms.places.visibility import EmbreeCaster, Rasteriser
from spann3r_ros.rooms.raycast import Rays

SMALL = PlaceConfig(height=30, width=40, patterns=2)


def generator(seed: int = 1, **changes: object) -> PlaceGenerator:
    return PlaceGenerator(replace(SMALL, **changes), small_pack(), seed)


@pytest.fixture(scope='module')
def batch() -> PlaceBatch:
    return generator().batch(6, 4)


def looking_ahead(rows: int = 24, columns: int = 32) -> Rays:
    """One camera at 1 m above the origin that looks along world x, 90 degrees wide."""
    turned = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    return Rays(torch.tensor([[0.0, 0.0, 1.0]]), turned[None],
                ((torch.arange(columns) + 0.5) * 2 / columns - 1)[None],
                ((torch.arange(rows) + 0.5) * 2 / columns - rows / columns)[None])


def test_every_pixel_of_a_closed_room_has_depth(batch: PlaceBatch) -> None:
    assert (batch.depth > 0.03).all()
    assert (batch.depth < 13.0).all()
    assert batch.images.float().std((2, 3, 4)).min() > 1.0


def test_points_are_on_the_rays_of_their_pixels_at_their_depth(batch: PlaceBatch) -> None:
    inverse = torch.linalg.inv(batch.camera_poses.double())
    local = torch.einsum('bfij,bfhwj->bfhwi', inverse[..., :3, :3], batch.points.double())
    local += inverse[..., None, None, :3, 3]
    matrix = batch.intrinsics.double()
    pixels = torch.einsum('bij,bfhwj->bfhwi', matrix, local)
    assert torch.allclose(local[..., 2], batch.depth.double(), atol=1e-4)
    row, column = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing='ij')
    assert torch.allclose(pixels[..., 0] / pixels[..., 2], column.double(), atol=2e-2)
    assert torch.allclose(pixels[..., 1] / pixels[..., 2], row.double(), atol=2e-2)
    assert torch.allclose(batch.camera_poses[:, 0], torch.eye(4).expand(6, 4, 4), atol=1e-6)


def test_one_surface_has_one_place_in_all_views(batch: PlaceBatch) -> None:
    """Most points of the second view that fall into the first one are seen there."""
    point = batch.points[:, 1].double()
    pixel = torch.einsum('bij,bhwj->bhwi', batch.intrinsics.double(), point)
    depth = pixel[..., 2]
    column, row = ((pixel[..., axis] / depth).round().long() for axis in (0, 1))
    inside = (depth > 0) & (column >= 0) & (column < 40) & (row >= 0) & (row < 30)
    seen = batch.depth[:, 0].double()[torch.arange(6)[:, None, None],
                                      row.clamp(0, 29), column.clamp(0, 39)]
    agrees = ((seen - depth).abs() < 0.05 * depth)[inside]
    assert inside.float().mean() > 0.4
    assert agrees.float().mean() > 0.8


def test_equal_seeds_give_equal_batches_and_a_state_continues() -> None:
    first, second = generator(), generator()
    expected = [first.batch(3, 2) for _ in range(2)]
    second.restore(torch.tensor(3))
    got = second.batch(3, 2)
    assert torch.equal(got.images, expected[1].images)
    assert torch.equal(got.points, expected[1].points)
    assert int(second.state()) == 6
    assert not torch.equal(expected[0].images, generator(seed=2).batch(3, 2).images)


def test_places_of_other_processes_are_those_of_this_one() -> None:
    drawings = PlaceDrawings(small_pack(), 2, seed=4, workers=2)
    for number in (3, 4, 9, 5):
        got, expected = drawings.get(number), drawings.draw(number)
        assert torch.equal(got.surfaces.corners, expected.surfaces.corners)
        assert np.array_equal(got.size, expected.size)


def test_images_have_the_size_that_is_asked_for() -> None:
    drawn = generator().batch(1, 2, image_size=(24, 56))
    assert drawn.images.shape == (1, 2, 3, 24, 56)
    assert drawn.points.shape == (1, 2, 24, 56, 3)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'height': 4}, 'image size: expected sides of 8 pixels or more .* got 4 x 40'),
    ({'height': 1000, 'width': 1000}, 'at most 349525 pixels, got 1000 x 1000'),
    ({'field_of_view_deg': (90.0, 60.0)}, 'field_of_view_deg: expected 10 to 150 degrees')])
def test_bad_camera_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize('seed', range(3))
def test_rasteriser_sees_what_embree_sees(seed: int) -> None:
    place = draw_place(small_pack(), 2, np.random.default_rng(seed))
    rays = looking_ahead(50, 70)
    rays = replace(rays, origin=torch.tensor(place.size / 2, dtype=torch.float32)[None])
    table = PlaceTable.of(place.surfaces)
    depths = [sample_depth(table, Samples.of(rays, caster(place.surfaces).first_hits(rays)))
              for caster in (EmbreeCaster, Rasteriser)]
    differ = (depths[0] - depths[1]).abs() > 1e-3 * depths[0]
    assert (depths[0] > 0).all()
    assert differ.float().mean() < 2e-3


def test_rasteriser_finds_nothing_where_nothing_is() -> None:
    builder = SurfaceBuilder()
    builder.box(np.array((2.0, 0.0, 1.0)), np.full(3, 0.5), 0.0, Look(0))
    surfaces, rays = builder.build(), looking_ahead()
    hits = [caster(surfaces).first_hits(rays) >= 0 for caster in (EmbreeCaster, Rasteriser)]
    assert torch.equal(*hits)
    # The front face, 1.5 m away, is a third of the image's width.
    assert 10 <= hits[0][0, 12].sum() <= 12


def test_picture_is_not_mirrored() -> None:
    """A quad's texture begins at its first corner's side and runs along its first edge."""
    builder = SurfaceBuilder()
    builder.quad(np.array((2.0, 1.0, 0.0)), np.array((0.0, -2.0, 0.0)), np.array((0.0, 0.0, 2.0)),
                 Look(0))
    table, rays = PlaceTable.of(builder.build()), looking_ahead()
    hits = EmbreeCaster(builder.build()).first_hits(rays)
    row = table.columns[hits.clamp_min(0)]
    depth = sample_depth(table, Samples.of(rays, hits)).view(24, 32)
    directions = torch.stack((torch.ones(24, 32), -rays.columns[0].expand(24, 32),
                              -rays.rows[0][:, None].expand(24, 32)), -1)
    points = rays.origin[0] + depth[..., None] * directions
    u, v = ((row[0, ..., start:start + 3] * points).sum(-1) + row[0, ..., start + 3]
            for start in (4, 8))
    seen = hits[0] >= 0
    left, right = (u[12, columns][seen[12, columns]] for columns in (slice(0, 16), slice(16, 32)))
    top, bottom = (v[rows, 16][seen[rows, 16]] for rows in (slice(0, 12), slice(12, 24)))
    assert left.max() < 0.5 < right.min()
    assert top.max() < 0.5 < bottom.min()


def test_box_shades_the_floor_below_it() -> None:
    builder = SurfaceBuilder()
    builder.quad(np.array((-3.0, -3.0, 0.0)), np.array((6.0, 0.0, 0.0)),
                 np.array((0.0, 6.0, 0.0)), Look(0))
    builder.box(np.array((0.0, 0.0, 1.0)), np.array((0.5, 0.5, 0.1)), 0.0, Look(0))
    surfaces = builder.build()
    cube = ShadowCube(torch.tensor([0.0, 0.0, 2.0]), EmbreeCaster(surfaces),
                      PlaceTable.of(surfaces))

    def cosines(points: torch.Tensor) -> torch.Tensor:
        return (2.0 - points[:, 2]) / (points - cube.position).norm(dim=1)

    spots = torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.3, 0.0], [1.8, 0.0, 0.0], [2.5, 2.5, 0.0],
                          [0.2, 0.1, 1.1]])
    assert torch.equal(cube.lit(spots, cosines(spots)), torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]))
    # The edge of the shadow, at 1.22 m, is soft.
    line = torch.stack((torch.linspace(0.9, 1.5, 60), torch.zeros(60), torch.zeros(60)), 1)
    edge = cube.lit(line, cosines(line))
    assert ((edge > 0.05) & (edge < 0.95)).sum() > 2
    assert edge[0] == 0.0 and edge[-1] == 1.0


def test_cameras_keep_away_from_walls_and_furniture() -> None:
    met = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        place = draw_place(small_pack(), 2, rng)
        walk = draw_walk(place, 12, 1.0, rng)
        flat, height = walk.origin[:, :2], walk.origin[:, 2]
        assert ((flat > CLEARANCE) & (flat < place.size[:2] - CLEARANCE)).all()
        assert ((height > 0.1) & (height < place.size[2])).all()
        for item in place.obstacles:
            inside = ((flat > item.low[:2]) & (flat < item.high[:2])).all(1)
            assert not (inside & (height > item.low[2]) & (height < item.high[2])).any()
            met += int(item.low[2] < height.mean() < item.high[2])
    assert met > 50


def test_place_without_free_space_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def crowded_at_first(*arguments: object) -> Place:
        place = _drawn(*arguments)
        if not drawn:
            everywhere = Obstacle(np.zeros(3), place.size)
            place = replace(place, obstacles=(everywhere,))
        drawn.append(place)
        return place

    monkeypatch.setattr(place_drawing, '_drawn', crowded_at_first)
    place = draw_place(small_pack(), 2, np.random.default_rng(0))
    assert len(drawn) == 2 and place is drawn[1]


def test_light_and_depth_are_those_of_a_pixel_s_centre() -> None:
    """Dark and bright halves of a wall meet at a place that moves over the pixels."""
    config = replace(SMALL, height=24, width=32)
    drawer = PlaceGenerator(config, small_pack(), 1)
    rays, shares = looking_ahead(), []
    for meeting in np.linspace(-0.05, 0.05, 21):
        builder = SurfaceBuilder()
        for side, grey in ((1, 0.2), (-1, 1.0)):
            builder.quad(np.array((1.0, meeting, -2.0)), np.array((0.0, side * 4.0, 0.0)),
                         np.array((0.0, 0.0, 6.0)), Look(drawer_white(drawer), (grey,) * 3,
                                                         glow=1.0))
        place = Place(builder.build(), (), (), np.array((9.0, 9.0, 9.0)), 0.0)
        light, depth = LitPlace.of(place, torch.device('cpu')).view(drawer._bank, rays)
        assert torch.allclose(depth, torch.ones(1, 24, 32), atol=1e-5)
        row = light[0, 0, 12]
        # How many pixels are bright: those right of the meeting, at 16 pixels a metre.
        shares.append(float((row - row.min()).sum() / (row.max() - row.min())))
    expected = 16 + 16 * np.linspace(-0.05, 0.05, 21)
    assert abs(np.mean(shares - expected)) < 0.02
    assert np.abs(shares - expected).max() < 0.3


def drawer_white(drawer: PlaceGenerator) -> int:
    return len(drawer._bank) - 1


def test_faces_of_a_box_are_in_order() -> None:
    expected = ((0, -1), (0, 1), (1, -1), (1, 1), (2, -1), (2, 1))
    for face, (axis, sign) in enumerate(expected):
        builder = SurfaceBuilder()
        builder.box(np.zeros(3), np.array((1.0, 2.0, 3.0)), 0.0, Look(0), (face,))
        corners = builder.build().corners
        assert torch.equal(corners[..., axis], torch.full((2, 3), sign * float(axis + 1)))
        normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (normal[:, axis] * sign > 0).all()


def test_some_rooms_have_pillars_from_floor_to_ceiling() -> None:
    places = [draw_place(small_pack(), 2, np.random.default_rng(seed)) for seed in range(20)]
    assert sum(item.low[2] == 0.0 and item.high[2] == place.size[2]
               for place in places for item in place.obstacles) > 5


def test_rasteriser_takes_the_first_of_triangles_at_one_place() -> None:
    builder = SurfaceBuilder()
    for _ in range(70):
        builder.quad(np.array((2.0, 1.0, 0.0)), np.array((0.0, -2.0, 0.0)),
                     np.array((0.0, 0.0, 2.0)), Look(0))
    hits = Rasteriser(builder.build()).first_hits(looking_ahead())
    assert set(hits.unique().tolist()) == {-1, 0, 1}


def test_compression_is_as_lossy_as_jpeg() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (64, 96, 3), np.uint8), (0, 0), 1.5)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]

    def error(quality: int) -> tuple[float, float]:
        own = compress(tensor, quality)[0].permute(1, 2, 0).numpy()
        _, coded = cv2.imencode('.jpg', image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
        other = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]
        return tuple(float(np.sqrt(np.square(item.astype(float) - image).mean()))
                     for item in (own, other))

    assert error(100)[0] < 1.5
    for quality in (30, 60, 90):
        own, other = error(quality)
        assert 0.4 * other < own < 1.5 * other
    assert error(30)[0] > 2 * error(90)[0]


def test_pack_is_read_as_it_was_written(tmp_path: Path) -> None:
    pack, path = small_pack(), tmp_path / 'folder' / 'pack.npz'
    write_pack(pack, path)
    read = read_pack(path)
    assert read.textures == pack.textures
    assert (read.photographs, read.sources) == (pack.photographs, pack.sources)
    for got, expected in zip(read.meshes, pack.meshes, strict=True):
        assert (got.name, got.category) == (expected.name, expected.category)
        assert np.allclose(got.vertices, expected.vertices, atol=2e-3)
        assert np.array_equal(got.faces, expected.faces)
        assert np.array_equal(got.texture, expected.texture)


def test_file_that_is_no_pack_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'pack.npz'
    with pytest.raises(PackError, match=f'{path}: expected a pack of assets'):
        read_pack(path)
    np.savez(path, meta=np.array('{"version": 99}'))
    with pytest.raises(PackError, match='expected version 2 of a pack, got 99'):
        read_pack(path)
    path.write_bytes(b'no archive')
    with pytest.raises(PackError, match=f'{path}: expected a pack of assets'):
        read_pack(path)
