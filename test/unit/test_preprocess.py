# SPDX-License-Identifier: Apache-2.0
"""Resize and crop: known sizes, the middle, and intrinsics that follow the pixels."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from spann3r_ros.core import views
from spann3r_ros.core.camera import Distortion, Intrinsics
from spann3r_ros.core.rectification import Rectifier
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.core.views import preprocess


def coordinates(height: int, width: int) -> np.ndarray:
    """Return an image whose red grows with x and whose green grows with y."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 250, width)[None, :]
    rgb[..., 1] = np.linspace(0, 250, height)[:, None]
    return rgb


@pytest.mark.parametrize(('width', 'height', 'resized', 'left'), [
    (640, 480, 298, 37), (1280, 720, 398, 87), (848, 480, 395, 86), (752, 480, 350, 63)])
def test_published_sizes_are_resized_and_cropped_as_specified(
        width: int, height: int, resized: int, left: int) -> None:
    rgb = coordinates(height, width)
    whole = np.asarray(Image.fromarray(rgb).resize((resized, 224), Image.Resampling.LANCZOS))
    result = preprocess(Frame(0, 'camera', rgb, None), (224, 224)).image
    np.testing.assert_array_equal(result, whole[:, left:left + 224])


@pytest.mark.parametrize(('height', 'width', 'size', 'most'), [
    (480, 640, (96, 96), 1), (480, 640, (224, 224), 1), (719, 1281, (224, 224), 1),
    (240, 320, (224, 224), 1), (48, 64, (224, 224), 2)])
def test_fast_resize_is_a_grey_level_or_two_off(
        height: int, width: int, size: tuple[int, int], most: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    rgb.setflags(write=False)
    exact = preprocess(Frame(0, 'camera', rgb), size).image.astype(int)
    fast = preprocess(Frame(0, 'camera', rgb), size, exact=False).image.astype(int)
    assert 0 < np.abs(fast - exact).max() <= most
    assert (fast != exact).mean() < 0.05


@pytest.mark.parametrize('exact', [True, False])
def test_image_may_be_a_view_that_runs_backwards(exact: bool) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    flipped = preprocess(Frame(0, 'camera', rgb[:, ::-1, ::-1]), (96, 96), exact=exact)
    copied = preprocess(Frame(0, 'camera', rgb[:, ::-1, ::-1].copy()), (96, 96), exact=exact)
    np.testing.assert_array_equal(flipped.image, copied.image)


@pytest.mark.parametrize('size', [(224, 224), (96, 96), (64, 112)])
def test_any_network_size_is_filled(size: tuple[int, int]) -> None:
    result = preprocess(Frame(0, 'camera', coordinates(123, 321), None), size)
    assert result.image.shape == (*size, 3)
    assert result.intrinsics is None


def test_intrinsics_follow_the_pixels() -> None:
    # A world point seen at pixel (u, v) of the camera must be seen at its image in the crop.
    camera = Intrinsics(400.0, 410.0, 330.0, 236.0, 640, 480)
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[296:304, 396:404] = 255
    result = preprocess(Frame(0, 'camera', rgb, camera), (96, 96))
    x, y = (399.5 - camera.cx) / camera.fx, (299.5 - camera.cy) / camera.fy
    moved = result.intrinsics
    u, v = moved.fx * x + moved.cx, moved.fy * y + moved.cy
    weight = result.image[..., 0].astype(float)
    rows, columns = np.mgrid[:96, :96]
    assert (weight * columns).sum() / weight.sum() == pytest.approx(u, abs=0.1)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(v, abs=0.1)
    assert (moved.width, moved.height) == (96, 96)


def test_principal_point_becomes_the_middle() -> None:
    camera = Intrinsics(400.0, 400.0, 260.0, 240.0, 640, 480)
    moved = preprocess(Frame(0, 'camera', coordinates(480, 640), camera), (96, 96)).intrinsics
    assert moved.cx == pytest.approx(47.5, abs=0.6)
    assert moved.cy == pytest.approx(47.5, abs=0.6)


@pytest.mark.parametrize('bad', [
    np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8),
    np.zeros((10, 10, 3), np.float32), np.zeros((0, 10, 3), np.uint8), None])
def test_argument_that_is_no_image_is_refused_by_name(bad: np.ndarray | None) -> None:
    with pytest.raises(FrameError, match='rgb: expected uint8'):
        preprocess(Frame(0, 'camera', bad, None), (96, 96))


@pytest.mark.parametrize('camera', [
    Intrinsics(400.0, 400.0, 100.0, 240.0, 640, 480),
    Intrinsics(400.0, 400.0, 320.0, 240.0, 320, 240),
    Intrinsics(float('nan'), 400.0, 320.0, 240.0, 640, 480),
    Intrinsics(0.0, 400.0, 320.0, 240.0, 640, 480)])
def test_unusable_intrinsics_are_refused(camera: Intrinsics) -> None:
    with pytest.raises(FrameError, match='intrinsics|principal point'):
        preprocess(Frame(0, 'camera', coordinates(480, 640), camera), (96, 96))


def test_letterbox_keeps_the_whole_image_between_bars() -> None:
    rgb = np.full((90, 160, 3), 200, np.uint8)
    result = preprocess(Frame(0, 'camera', rgb), (96, 96), letterbox=True)
    assert result.coverage == 1.0
    assert result.usable.sum() == 96 * 54
    np.testing.assert_array_equal(result.usable, result.image[..., 0] > 0)
    assert result.usable[21:75].all()


@pytest.mark.parametrize(('size', 'share'), [
    ((480, 640), 0.75), ((720, 1280), 0.5625), ((640, 480), 0.75), ((96, 96), 1.0)])
def test_crop_reports_what_it_shows(size: tuple[int, int], share: float) -> None:
    result = preprocess(Frame(0, 'camera', coordinates(*size)), (96, 96))
    assert result.coverage == pytest.approx(share, abs=0.01)
    assert result.usable is None


@pytest.mark.parametrize('letterbox', [False, True])
@pytest.mark.parametrize('size', [(480, 640), (360, 640), (640, 480)])
def test_intrinsics_follow_the_pixels_for_every_shape(
        size: tuple[int, int], letterbox: bool) -> None:
    height, width = size
    camera = Intrinsics(400.0, 410.0, 0.48 * width, 0.51 * height, width, height)
    rgb = np.zeros((height, width, 3), np.uint8)
    v0, u0 = height // 2 + 40, width // 2 - 30
    rgb[v0:v0 + 8, u0:u0 + 8] = 255
    result = preprocess(Frame(0, 'camera', rgb, camera), (96, 96), letterbox)
    x, y = (u0 + 3.5 - camera.cx) / camera.fx, (v0 + 3.5 - camera.cy) / camera.fy
    moved = result.intrinsics
    weight = result.image[..., 0].astype(float)
    rows, columns = np.mgrid[:96, :96]
    assert (weight * columns).sum() / weight.sum() == pytest.approx(
        moved.fx * x + moved.cx, abs=0.1)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(moved.fy * y + moved.cy, abs=0.1)


@pytest.mark.parametrize('letterbox', [False, True])
@pytest.mark.parametrize('size', [(480, 640), (640, 480), (301, 517)])
def test_intrinsics_of_the_whole_image_come_back(size: tuple[int, int], letterbox: bool) -> None:
    height, width = size
    camera = Intrinsics(0.9 * width, 0.8 * width, 0.46 * width, 0.55 * height, width, height)
    window = views.window_of(size, camera, (224, 288), letterbox)
    back = window.undo(window.follow(camera, (224, 288)), size)
    assert (back.width, back.height) == (width, height)
    assert [back.fx, back.fy, back.cx, back.cy] == pytest.approx(
        [camera.fx, camera.fy, camera.cx, camera.cy], abs=1e-9)


def test_mask_is_fitted_as_its_pixels() -> None:
    rgb = np.full((120, 160, 3), 255, np.uint8)
    rgb[30:90, 40:100] = 0
    mask = rgb[..., 0] > 0
    result = preprocess(Frame(0, 'camera', rgb, mask=mask), (96, 96))
    assert result.image[~result.usable].size
    # The filter of the image reaches further than a masked pixel, never the other way round.
    assert not result.usable[result.image[..., 0] < 100].any()
    assert result.usable[result.image[..., 0] == 255].mean() > 0.95


def test_mask_of_another_size_is_refused() -> None:
    mask = np.ones((60, 80), bool)
    with pytest.raises(FrameError, match=r'mask: expected bool \(120, 160\)'):
        preprocess(Frame(0, 'camera', coordinates(120, 160), mask=mask), (96, 96))


LENSES = [Distortion('plumb_bob', (-0.3, 0.1, 0.001, -0.002, 0.0)),
          Distortion('rational_polynomial', (0.2, -0.1, 0.0, 0.001, 0.0, 0.3, 0.0, 0.0)),
          Distortion('equidistant', (0.05, -0.01, 0.0, 0.0))]


@pytest.mark.parametrize('lens', LENSES, ids=lambda lens: lens.model)
def test_rectified_pixels_obey_the_pinhole(lens: Distortion) -> None:
    """Spots drawn where the lens puts known rays are found where a pinhole would put them."""
    camera = Intrinsics(300.0, 305.0, 322.0, 238.0, 640, 480, lens)
    rays = np.array([[x, y, 1.0] for x in (-0.4, 0.0, 0.45) for y in (-0.3, 0.05, 0.35)])
    coefficients = np.array(lens.coefficients)
    project = cv2.fisheye.projectPoints if lens.model == 'equidistant' else cv2.projectPoints
    drawn = project(rays[:, None], np.zeros(3), np.zeros(3), camera.matrix, coefficients)[0]
    for ray, (u, v) in zip(rays, drawn.reshape(-1, 2), strict=True):
        yy, xx = np.mgrid[:480, :640]
        spot = np.exp(-((xx - u)**2 + (yy - v)**2) / 32.0)
        rgb = np.repeat((250 * spot).astype(np.uint8)[..., None], 3, axis=-1)
        weight = Rectifier(camera)(rgb)[..., 0].astype(float)
        assert (weight * xx).sum() / weight.sum() == pytest.approx(300.0 * ray[0] + 322.0, abs=0.7)
        assert (weight * yy).sum() / weight.sum() == pytest.approx(305.0 * ray[1] + 238.0, abs=0.7)


def test_pixels_outside_the_distorted_image_are_unusable() -> None:
    pincushion = Distortion('plumb_bob', (0.4, 0.0, 0.0, 0.0, 0.0))
    camera = Intrinsics(300.0, 300.0, 319.5, 239.5, 640, 480, pincushion)
    result = preprocess(Frame(0, 'camera', np.full((480, 640, 3), 255, np.uint8), camera),
                        (96, 96))
    assert result.intrinsics.distortion is None
    assert not result.usable[0, 0] and result.usable[48, 48]
    assert result.image[result.usable].min() > 200  # the resize reaches a little over the edge


@pytest.mark.parametrize('lens', LENSES, ids=lambda lens: lens.model)
def test_zeros_behind_the_coefficients_change_nothing(lens: Distortion) -> None:
    camera = Intrinsics(300.0, 305.0, 322.0, 238.0, 640, 480, lens)
    filled = replace(lens, coefficients=(*lens.coefficients, *[0.0] * (15 - len(
        lens.coefficients))))
    rgb = coordinates(480, 640)
    np.testing.assert_array_equal(Rectifier(replace(camera, distortion=filled))(rgb),
                                  Rectifier(camera)(rgb))


@pytest.mark.parametrize(('lens', 'reason'), [
    (Distortion('plumb_bob', (0.1, 0.2, 0.0, 0.0, 0.1, 0.2)), '4 or 5 coefficients'),
    (Distortion('plumb_bob', (0.1, 0.2)), '4 or 5 coefficients'),
    (Distortion('kannala', (0.1,)), "distortion model: expected .* got 'kannala'"),
    (Distortion('plumb_bob', (float('nan'), 0.0, 0.0, 0.0)), 'finite')])
def test_unknown_distortion_is_refused(lens: Distortion, reason: str) -> None:
    camera = Intrinsics(300.0, 300.0, 319.5, 239.5, 640, 480, lens)
    with pytest.raises(FrameError, match=reason):
        preprocess(Frame(0, 'camera', coordinates(480, 640), camera), (96, 96))


def test_camera_model_is_computed_once_per_calibration() -> None:
    lens = Distortion('plumb_bob', (0.2, 0.0, 0.0, 0.0, 0.0))
    camera = Intrinsics(300.0, 300.0, 319.5, 239.5, 640, 480, lens)
    rgb = np.full((480, 640, 3), 255, np.uint8)
    first, second = (preprocess(Frame(stamp, 'camera', rgb, camera), (96, 96))
                     for stamp in (0, 1))
    assert first.usable is second.usable and not first.usable.flags.writeable
    other = preprocess(Frame(2, 'camera', rgb, replace(camera, fx=310.0)), (96, 96))
    assert other.usable is not first.usable


@pytest.mark.parametrize(('read_only', 'moved'), [(True, 1), (False, 3)])
def test_only_what_changes_is_moved_for_each_image(
        read_only: bool, moved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lens = Distortion('plumb_bob', (0.2, 0.0, 0.0, 0.0, 0.0))
    camera = Intrinsics(301.0, 300.0, 319.5, 239.5, 640, 480, lens)
    rgb, mask = coordinates(480, 640), np.ones((480, 640), bool)
    mask[:, :100] = False
    mask.setflags(write=not read_only)
    model = views.CameraModel((480, 640), camera, (96, 96), letterbox=False, exact=True)
    calls, remap = [], cv2.remap
    monkeypatch.setattr(cv2, 'remap', lambda image, *how: (
        calls.append(image.ndim), remap(image, *how))[1])
    for _ in range(3):
        model.fit(rgb)
    assert calls == [3, 3, 3]  # the images alone
    calls.clear()
    views_of_mask = [model.fit(rgb, mask).usable for _ in range(3)]
    assert (calls.count(3), calls.count(2)) == (3, moved)
    other = mask.copy()
    other[:, 300:] = False
    other.setflags(write=not read_only)
    assert not np.array_equal(model.fit(rgb, other).usable, views_of_mask[0])
    assert all(np.array_equal(model.fit(rgb, mask).usable, one) for one in views_of_mask)


def test_images_are_resized_exactly_where_torch_has_no_lanczos_filter(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    frame = Frame(0, 'camera', rgb, None)
    interpolate = torch.nn.functional.interpolate

    def refusing(*arguments: object, mode: str, antialias: bool) -> torch.Tensor:
        if mode == 'lanczos':
            raise ValueError('Anti-alias option is restricted to bilinear and bicubic modes')
        return interpolate(*arguments, mode=mode, antialias=antialias)

    monkeypatch.setattr(torch.nn.functional, 'interpolate', refusing)
    views._torch_has_lanczos.cache_clear()
    try:
        fast, exact = (preprocess(frame, (32, 32), exact=value).image for value in (False, True))
    finally:
        views._torch_has_lanczos.cache_clear()
    np.testing.assert_array_equal(fast, exact)
    assert 'has no Lanczos filter' in caplog.text
