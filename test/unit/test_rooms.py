# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from spann3r_ros.rooms.room_generator import RoomBatch, RoomConfig, RoomGenerator
from spann3r_ros.rooms.scenes import BOXES, CYLINDERS, SPHERES, WALLS, Scenes, distances
from spann3r_ros.rooms.textures import make_texture_bank

SMALL = RoomConfig(size=40, textures=6, texture_size=32)
CLEAN = replace(SMALL, exposure=0.0, gain=0.0, noise=0.0)
VARIED = replace(SMALL, partition_share=0.5, composite_share=0.5, vignetting=0.4, streak=0.05)


class Watched(RoomGenerator):
    """Records the last cast: solids and camera centres in the world."""

    scenes: Scenes
    origin: Tensor

    def _render(self, scenes: Scenes, room_size: Tensor, origin: Tensor,
                rotation: Tensor, image_size: tuple[int, int]) -> RoomBatch:
        self.scenes, self.origin = scenes, origin
        return super()._render(scenes, room_size, origin, rotation, image_size)


@pytest.fixture(scope='module')
def batch() -> RoomBatch:
    return RoomGenerator(CLEAN, seed=3, textures_seed=4).batch(12, 4)


def in_world(batch: RoomBatch) -> Tensor:
    pose = batch.world_from_first.double()[:, None, None, None]
    return (pose[..., :3, :3] @ batch.points.double()[..., None])[..., 0] + pose[..., :3, 3]


def in_camera(points: Tensor, poses: Tensor) -> Tensor:
    """Return points [B, H, W, 3] of the first camera's frame in that of cameras [B, 4, 4]."""
    camera_from_first = torch.linalg.inv(poses.double())[:, None, None]
    rotated = camera_from_first[..., :3, :3] @ points.double()[..., None]
    return rotated[..., 0] + camera_from_first[..., :3, 3]


def pixels(points: Tensor, intrinsics: Tensor) -> Tensor:
    image = (intrinsics.double()[:, None, None] @ points[..., None])[..., 0]
    return image[..., :2] / image[..., 2:]


def test_batch_has_documented_shapes_and_types(batch: RoomBatch) -> None:
    assert batch.images.shape == (12, 4, 3, 40, 40) and batch.images.dtype == torch.uint8
    assert batch.points.shape == (12, 4, 40, 40, 3) and batch.points.dtype == torch.float32
    assert batch.depth.shape == (12, 4, 40, 40)
    assert batch.camera_poses.shape == (12, 4, 4, 4)
    assert batch.intrinsics.shape == (12, 3, 3)
    assert batch.world_from_first.shape == (12, 4, 4)


def test_points_lie_inside_the_room_and_mostly_on_its_walls(batch: RoomBatch) -> None:
    points, size = in_world(batch), batch.room_size.double()[:, None, None, None]
    assert (points > -1e-4).all() and (points < size + 1e-4).all()
    from_wall = torch.minimum(points, size - points).amin(-1)
    assert (from_wall.abs() < 1e-4).double().mean() > 0.5
    assert (from_wall > 0.05).double().mean() > 0.05  # furniture is seen as well


def test_points_project_to_their_own_pixels(batch: RoomBatch) -> None:
    row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing='ij')
    expected = torch.stack((column, row), -1).double()
    for frame in range(4):
        local = in_camera(batch.points[:, frame], batch.camera_poses[:, frame])
        assert (pixels(local, batch.intrinsics) - expected).abs().max() < 1e-3
        assert (local[..., 2] - batch.depth[:, frame]).abs().max() < 1e-4
    assert batch.depth.min() > 0.1


def test_first_camera_is_the_frame_of_the_points(batch: RoomBatch) -> None:
    assert torch.allclose(batch.camera_poses[:, 0], torch.eye(4).expand(12, 4, 4), atol=1e-6)
    rotation = batch.camera_poses[..., :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    height = batch.world_from_first[:, 2, 3]
    assert (height > 1.1 - 1e-5).all() and (height < 1.7 + 1e-5).all()
    assert (batch.world_from_first[:, 2, 1] < -0.9).all()  # image down is world down


def test_neighbouring_frames_agree_where_they_see_the_same_points() -> None:
    batch = RoomGenerator(CLEAN, seed=5, textures_seed=6).batch(12, 2, motion=0.25)
    local = in_camera(batch.points[:, 1], batch.camera_poses[:, 0])
    grid = (pixels(local, batch.intrinsics) / 39 * 2 - 1).float()
    sampled = grid_sample(torch.cat((batch.images[:, 0].float(), batch.depth[:, :1]), 1), grid,
                          align_corners=True)  # fmt: skip
    seen = (grid.abs() < 1).all(-1) & (local[..., 2] > 0)
    seen &= (sampled[:, 3] - local[..., 2]).abs() < 0.01 * local[..., 2]
    assert seen.double().mean() > 0.5
    same = (sampled[:, :3] - batch.images[:, 1]).abs().mean(1)[seen]
    others = (sampled[:, :3] - batch.images[:, 1].roll(1, 0)).abs().mean(1)[seen]
    assert same.median() < 5 < 25 < others.median()


def test_cameras_keep_their_distance_from_every_solid() -> None:
    generator = Watched(replace(SMALL, clearance=0.8), seed=7, textures_seed=8)
    generator.batch(20, 3)
    clear = clearances(generator)
    assert clear[:, :, 0].min() > 0.3  # the walls
    assert clear[:, :, 1:].min() >= 0.8
    furniture = clear[:, :, 1:WALLS.start]
    assert furniture.isfinite().double().mean() > 0.55  # most furniture stays


def clearances(generator: Watched) -> Tensor:
    """Return distances [F, B, SOLIDS] of every camera to the solids."""
    return torch.stack([distances(generator.scenes, point)
                        for point in generator.origin.unbind(1)])  # fmt: skip


def check_points_lie_on_solids(generator: Watched, batch: RoomBatch) -> Tensor:
    """Check that points are on solids; return the solid of each [B, points]."""
    points = in_world(batch).float().flatten(1, 3)
    distance = torch.stack([distances(generator.scenes, point) for point in points.unbind(1)], 1)
    nearest, solid = distance.abs().min(-1)
    assert nearest.max() < 2e-4
    assert distance.min() > -2e-4  # nothing is seen through
    return solid


def share_on(solid: Tensor, part: slice) -> float:
    return ((solid >= part.start) & (solid < part.stop)).double().mean().item()


def test_points_lie_on_the_solids_that_are_cast() -> None:
    generator = Watched(CLEAN, seed=9, textures_seed=8)
    solid = check_points_lie_on_solids(generator, generator.batch(20, 2))
    assert min(share_on(solid, part) for part in (SPHERES, CYLINDERS)) > 0.01


@pytest.fixture(scope='module')
def divided() -> tuple[Watched, RoomBatch]:
    generator = Watched(replace(CLEAN, partition_share=1.0), seed=11, textures_seed=8)
    return generator, generator.batch(20, 4)


def across_the_wall(generator: Watched, points: Tensor) -> Tensor:
    """Return signed distances [B, n] of points [B, n, 3] from the middle of their room's wall."""
    half, centre = (values[:, WALLS.stop - 1, :2] for values in (generator.scenes.half,
                                                                  generator.scenes.centre))
    axis = half.argmin(1)
    place = centre.gather(1, axis[:, None])
    return points.gather(2, axis[:, None, None].expand(*points.shape[:2], 1))[..., 0] - place


def test_divided_rooms_are_visible_on_both_sides_of_their_wall(
    divided: tuple[Watched, RoomBatch],
) -> None:
    generator, batch = divided
    solid = check_points_lie_on_solids(generator, batch)
    for part in range(WALLS.start, WALLS.stop):
        assert share_on(solid, slice(part, part + 1)) > 0.004
    points = in_world(batch).float().flatten(1, 3)
    beyond = (across_the_wall(generator, points) > 0.2).double().mean(1)
    assert 0.2 < (beyond > 0.02).double().mean()
    assert (points > -1e-4).all() and (points < batch.room_size[:, None] + 1e-4).all()


def test_cameras_pass_doorways_and_keep_their_distance(
    divided: tuple[Watched, RoomBatch],
) -> None:
    generator, _ = divided
    clear = clearances(generator)
    assert clear.min() >= generator.config.clearance
    # Only the parts of walls for which the path leaves no room were removed.
    assert clear[0, :, WALLS].isfinite().double().mean() > 0.85
    assert clear[0, :, WALLS.stop - 1].isfinite().all()
    side = across_the_wall(generator, generator.origin) > 0
    passing = side.any(1) & ~side.all(1)
    assert 0.02 < passing.double().mean() < 0.9


def test_walls_stand_from_side_to_side_and_meet_around_the_doorway(
    divided: tuple[Watched, RoomBatch],
) -> None:
    scenes, size = divided[0].scenes, divided[1].room_size
    half, centre = scenes.half[:, WALLS], scenes.centre[:, WALLS]
    along = 1 - half[:, -1, :2].argmin(1)
    pick = along[:, None, None].expand(-1, 3, 1)
    low, high = ((centre + sign * half).gather(2, pick)[..., 0] for sign in (-1, 1))
    whole = (half > 0).all(2).all(1)  # neither end of the doorway is the room's own wall
    assert whole.double().mean() > 0.5
    width = size.gather(1, along[:, None])[:, 0]
    for one, other in ((low[:, 0], torch.zeros_like(width)), (high[:, 0], low[:, 2]),
                       (high[:, 2], low[:, 1]), (high[:, 1], width)):  # fmt: skip
        assert torch.allclose(one[whole], other[whole], atol=1e-4)
    lintel = (centre - half)[:, 2, 2]
    assert lintel.min() > 2.0 and torch.allclose((centre + half)[:, 2, 2], size[:, 2], atol=1e-4)


def test_seats_have_a_back_and_tables_a_leg() -> None:
    generator = Watched(replace(CLEAN, composite_share=1.0), seed=13, textures_seed=8)
    solid = check_points_lie_on_solids(generator, generator.batch(20, 2))
    seat, back, top, leg = (BOXES.start, BOXES.start + 1, BOXES.start + 2, CYLINDERS.start)
    for part in (seat, back, top, leg):
        assert share_on(solid, slice(part, part + 1)) > 0.001
    half, centre, turn = (getattr(generator.scenes, name) for name in ('half', 'centre', 'turn'))
    seated = (half[:, seat, 0] > 0) & (half[:, back, 0] > 0)
    laid = (half[:, top, 0] > 0) & (half[:, leg, 0] > 0)
    assert min(seated.double().mean(), laid.double().mean()) > 0.6
    cos, sin = turn[seated, seat].unbind(1)
    x, y, _ = (centre[seated, back] - centre[seated, seat]).unbind(1)
    aside, behind = cos * x + sin * y, cos * y - sin * x
    assert aside.abs().max() < 1e-4 and torch.equal(turn[seated, back], turn[seated, seat])
    gap = half[seated, seat, 1] - behind - half[seated, back, 1]  # to the seat's rear edge
    assert 0 < gap.min() and gap.max() < 0.02
    over = half[seated, seat, 0] - half[seated, back, 0]
    assert 0 < over.min() and over.max() < 0.02
    ends = (centre + half)[..., 2]
    assert (ends[seated, back] > ends[seated, seat] + 0.05).all()
    assert torch.allclose((centre - half)[seated][:, (seat, back), 2], torch.zeros(1), atol=1e-5)
    assert torch.equal(centre[laid, leg, :2], centre[laid, top, :2])
    # Into the top, but not through it: two surfaces at one place would flicker.
    underside = (centre - half)[laid, top, 2]
    assert (ends[laid, leg] >= underside - 1e-5).all()
    assert (ends[laid, leg] < ends[laid, top] - 0.01).all()


def test_vignetting_darkens_corners_and_leaves_geometry_alone() -> None:
    even, dark = (
        RoomGenerator(config, seed=1, textures_seed=2).batch(20, 2)
        for config in (CLEAN, replace(CLEAN, vignetting=0.4))
    )
    assert torch.equal(even.points, dark.points)
    light = dark.images.float().sum((1, 2)) / even.images.float().sum((1, 2)).clamp_min(1)
    corners, middle = light[:, ::39, ::39].mean((1, 2)), light[:, 19:21, 19:21].mean((1, 2))
    assert (middle > 0.98).all()
    assert (corners > 0.55).all() and (corners < 1.01).all()
    assert corners.min() < 0.7 and corners.std() > 0.05
    assert not (dark.images > even.images).any()


def test_streaks_smooth_mostly_along_rows_and_leave_geometry_alone() -> None:
    generators = [RoomGenerator(config, seed=1, textures_seed=2)
                  for config in (CLEAN, replace(CLEAN, streak=0.1))]  # fmt: skip
    still, moved = (generator.batch(20, 2) for generator in generators)
    assert torch.equal(still.points, moved.points)
    means = [batch.images.float().mean((2, 3, 4)) for batch in (still, moved)]
    assert (means[0] - means[1]).abs().max() < 1.5
    along, down = (
        (moved.images.float().diff(dim=axis).square().mean()
         / still.images.float().diff(dim=axis).square().mean()).item() for axis in (-1, -2)
    )  # fmt: skip
    assert along < down < 0.8
    smear = generators[1]._sensor.settings(100, 4, 40, 40).smear
    assert torch.allclose(smear.sum((1, 2)), torch.ones(400))
    reach = torch.arange(5) - 2
    spreads = [(smear.sum(axis) * reach ** 2).sum(1).mean() for axis in (1, 2)]
    assert spreads[0] > 2 * spreads[1] > 0


def test_options_of_zero_do_not_change_the_rooms() -> None:
    names = ('partition_share', 'composite_share', 'vignetting', 'streak')
    plain, none = (
        RoomGenerator(replace(SMALL, **changes), seed=1, textures_seed=2).batch(4, 2)
        for changes in ({}, dict.fromkeys(names, 0.0))
    )
    assert torch.equal(plain.images, none.images) and torch.equal(plain.points, none.points)
    full = RoomGenerator(replace(SMALL, **dict.fromkeys(names, 0.1)), seed=1, textures_seed=2)
    assert not torch.equal(full.batch(4, 2).images, plain.images)


@pytest.mark.parametrize('config', [SMALL, VARIED])
def test_same_seeds_give_the_same_batches_for_any_chunk(config: RoomConfig) -> None:
    first, second = (
        RoomGenerator(replace(config, chunk=chunk), seed=1, textures_seed=2) for chunk in (2, 5)
    )
    torch.rand(3)  # the global generator plays no part
    for _ in range(2):
        a, b = first.batch(2, 3), second.batch(2, 3)
        assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(),
                                                     strict=True))  # fmt: skip
    assert not torch.equal(a.images, first.batch(2, 3).images)


def test_restored_state_continues_with_the_same_batch() -> None:
    generator = RoomGenerator(SMALL, seed=1, textures_seed=2)
    state = generator.state()
    expected = generator.batch(1, 2)
    resumed = RoomGenerator(SMALL, seed=1, textures_seed=2)
    resumed.batch(3, 1)
    resumed.restore(state)
    assert torch.equal(resumed.batch(1, 2).images, expected.images)


def test_other_textures_seed_changes_colours_and_not_geometry() -> None:
    a, b = (RoomGenerator(SMALL, seed=1, textures_seed=seed).batch(1, 2) for seed in (2, 3))
    assert torch.equal(a.points, b.points)
    assert (a.images.float() - b.images.float()).abs().mean() > 10


def test_turn_is_steady_and_level() -> None:
    generator = RoomGenerator(SMALL, seed=1, textures_seed=2)
    batch = generator.batch(2, 40, trajectory='turn')
    step = torch.linalg.inv(batch.camera_poses[:, :-1]) @ batch.camera_poses[:, 1:]
    angle = torch.atan2(step[..., 0, 2], step[..., 0, 0])
    assert torch.allclose(angle, torch.full_like(angle, -math.radians(9)), atol=1e-4)
    assert step[..., 1, 3].abs().max() < 1e-5
    slow = generator.batch(1, 2, trajectory='turn', turn_deg_per_frame=3).camera_poses[0, 1]
    assert math.degrees(math.acos(slow[0, 0])) == pytest.approx(3, abs=0.01)


def test_motion_scales_the_steps() -> None:
    generator = RoomGenerator(replace(SMALL, size=8), seed=1, textures_seed=2)
    still, slow, fast = (generator.batch(20, 3, motion).camera_poses for motion in (0, 0.25, 1))
    assert torch.allclose(still, still[:, :1].expand_as(still), atol=1e-5)
    slow, fast = (p[:, 1, :3, 3].norm(dim=-1).mean() for p in (slow, fast))
    assert 0.02 < slow < 0.5 * fast


def test_field_of_view_jitter_varies_the_intrinsics() -> None:
    config = replace(SMALL, size=8, field_of_view_jitter_deg=15)
    focal = RoomGenerator(config, seed=1, textures_seed=2).batch(30, 1).intrinsics[:, 0, 0]
    angle = 2 * torch.atan(4 / focal).rad2deg()
    assert angle.min() >= 65 and angle.max() <= 95 and angle.std() > 4


def test_pixel_noise_and_exposure_change_the_images_only() -> None:
    clean, noisy = (
        RoomGenerator(config, seed=1, textures_seed=2).batch(6, 2) for config in (CLEAN, SMALL)
    )
    assert torch.equal(clean.points, noisy.points)
    assert 3 < (clean.images.float() - noisy.images.float()).abs().mean() < 60


def test_textures_are_varied_and_average_out_on_the_last_level() -> None:
    bank = make_texture_bank(14, 32, seed=1)
    assert len(bank) == 14
    texture = torch.arange(14, dtype=torch.int32).repeat_interleave(32 * 32)
    v, u = torch.meshgrid(*[(torch.arange(32) + 0.5) / 32] * 2, indexing='ij')
    u, v = u.flatten().repeat(14), v.flatten().repeat(14)
    fine, coarse = (
        torch.stack(bank.sample(texture, u, v, torch.full_like(u, level))).view(3, 14, -1)
        for level in (0.0, 9.0)
    )
    assert torch.allclose(fine.mean(-1), coarse[..., 0], atol=0.01)
    assert fine.std(-1).amax(0).min() > 0.01
    assert coarse.std(1).min() > 0.1


def test_texture_sampling_interpolates_and_wraps() -> None:
    bank = make_texture_bank(1, 16, seed=1)
    texels = torch.stack([(bank.texels[:16] >> shift) & 255 for shift in (16, 8, 0)]) / 255
    u = torch.tensor([0.5, 1.0, 16.0, -15.5 + 16]) / 16
    zero = torch.zeros(4)
    color = torch.stack(bank.sample(zero.int(), u, zero + 0.5 / 16, zero.clone()))
    expected = torch.stack([
        texels[:, 0], texels[:, :2].mean(1), texels[:, [15, 0]].mean(1), texels[:, 0],
    ], 1)  # fmt: skip
    assert torch.allclose(color, expected, atol=2e-3)


@pytest.mark.parametrize(('changes', 'name'), [
    ({'size': 4}, 'size'),
    ({'field_of_view_deg': 170.0}, 'field_of_view_deg'),
    ({'field_of_view_jitter_deg': 75.0}, 'field_of_view_deg'),
    ({'partition_share': 1.5}, 'partition_share'),
    ({'composite_share': -0.1}, 'composite_share'),
    ({'vignetting': 1.1}, 'vignetting'),
    ({'streak': 0.6}, 'streak'),
])  # fmt: skip
def test_impossible_configuration_names_the_field(changes: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(SMALL, **changes)


def test_unknown_trajectory_and_texture_size_are_refused() -> None:
    with pytest.raises(ValueError, match='trajectory.*spiral'):
        RoomGenerator(SMALL, seed=1, textures_seed=2).batch(1, 1, trajectory='spiral')
    with pytest.raises(ValueError, match='size.*48'):
        make_texture_bank(1, 48, seed=1)
    with pytest.raises(ValueError, match='count.*0'):
        make_texture_bank(0, 16, seed=1)
