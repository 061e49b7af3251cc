# SPDX-License-Identifier: Apache-2.0
"""Resize and crop: known sizes, the middle, and intrinsics that follow the pixels."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from spann3r_ros.mapping.preprocess import preprocess
from spann3r_ros.mapping.types import FrameError, Intrinsics


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
    result = preprocess(rgb, None, (224, 224)).image
    np.testing.assert_array_equal(result, whole[:, left:left + 224])


@pytest.mark.parametrize('size', [(224, 224), (96, 96), (64, 112)])
def test_any_network_size_is_filled(size: tuple[int, int]) -> None:
    result = preprocess(coordinates(123, 321), None, size)
    assert result.image.shape == (*size, 3)
    assert result.intrinsics is None


def test_intrinsics_follow_the_pixels() -> None:
    # A world point seen at pixel (u, v) of the camera must be seen at its image in the crop.
    camera = Intrinsics(400.0, 410.0, 330.0, 236.0, 640, 480)
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[296:304, 396:404] = 255
    result = preprocess(rgb, camera, (96, 96))
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
    moved = preprocess(coordinates(480, 640), camera, (96, 96)).intrinsics
    assert moved.cx == pytest.approx(47.5, abs=0.6)
    assert moved.cy == pytest.approx(47.5, abs=0.6)


@pytest.mark.parametrize('bad', [
    np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8),
    np.zeros((10, 10, 3), np.float32), np.zeros((0, 10, 3), np.uint8), None])
def test_what_is_no_image_is_refused_by_name(bad: np.ndarray | None) -> None:
    with pytest.raises(FrameError, match='rgb: expected uint8'):
        preprocess(bad, None, (96, 96))


@pytest.mark.parametrize('camera', [
    Intrinsics(400.0, 400.0, 100.0, 240.0, 640, 480),
    Intrinsics(400.0, 400.0, 320.0, 240.0, 320, 240),
    Intrinsics(float('nan'), 400.0, 320.0, 240.0, 640, 480),
    Intrinsics(0.0, 400.0, 320.0, 240.0, 640, 480)])
def test_unusable_intrinsics_are_refused(camera: Intrinsics) -> None:
    with pytest.raises(FrameError, match='intrinsics|principal point'):
        preprocess(coordinates(480, 640), camera, (96, 96))
