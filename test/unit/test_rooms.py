# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from spann3r_ros.training.rooms import RoomBatch, RoomConfig, RoomGenerator
from spann3r_ros.training.scenes import CYLINDERS, SPHERES, distances
from spann3r_ros.training.textures import make_texture_bank

SMALL = RoomConfig(size=40, textures=6, texture_size=32)
CLEAN = replace(SMALL, exposure=0.0, gain=0.0, noise=0.0)


@pytest.fixture(scope='module')
def batch() -> RoomBatch:
    return RoomGenerator(CLEAN, seed=3, textures_seed=4).batch(12, 4)


def in_world(batch: RoomBatch) -> Tensor:
    pose = batch.world_from_first.double()[:, None, None, None]
    return (pose[..., :3, :3] @ batch.points.double()[..., None])[..., 0] + pose[..., :3, 3]


def in_camera(points: Tensor, poses: Tensor) -> Tensor:
    """Points [B, H, W, 3] of the first camera's frame in that of cameras [B, 4, 4]."""
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


def test_cameras_keep_their_distance_from_every_solid(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = RoomGenerator(replace(SMALL, clearance=0.8), seed=7, textures_seed=8)
    cast_scenes = []
    render = generator._render
    monkeypatch.setattr(
        generator, '_render', lambda *args: cast_scenes.append(args) or render(*args)
    )
    generator.batch(20, 3)
    (scenes, _, origin, _), = cast_scenes
    clear = torch.stack([distances(scenes, point) for point in origin.unbind(1)])
    assert clear[:, :, 0].min() > 0.3  # the walls
    assert clear[:, :, 1:].min() >= 0.8
    assert clear[:, :, 1:].isfinite().double().mean() > 0.4  # most furniture stays


def test_points_lie_on_the_solids_that_are_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = RoomGenerator(CLEAN, seed=9, textures_seed=8)
    cast_scenes = []
    render = generator._render
    monkeypatch.setattr(
        generator, '_render', lambda *args: cast_scenes.append(args) or render(*args)
    )
    batch = generator.batch(20, 2)
    scenes = cast_scenes[0][0]
    points = in_world(batch).float().flatten(1, 3)
    distance = torch.stack([distances(scenes, point) for point in points.unbind(1)], 1)
    nearest, solid = distance.abs().min(-1)
    assert nearest.max() < 2e-4
    assert distance.min() > -2e-4  # nothing is seen through
    for part in (SPHERES, CYLINDERS):
        assert ((solid >= part.start) & (solid < part.stop)).double().mean() > 0.01


def test_same_seeds_give_the_same_batches_whatever_the_chunk() -> None:
    first, second = (
        RoomGenerator(replace(SMALL, chunk=chunk), seed=1, textures_seed=2) for chunk in (2, 5)
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
