# SPDX-License-Identifier: Apache-2.0
"""A CameraInfo with binning and a region of interest gives the calibration of its image."""
from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from spann3r_ros.core.camera import Distortion
from spann3r_ros.core.messages import CameraInfo, to_intrinsics
from spann3r_ros.core.types import FrameError

WIDTH, HEIGHT = 1280, 960
LENS = (-0.2, 0.06, 0.001, -0.002, 0.0)
REGIONS = {'none': (0, 0, 0, 0), 'whole': (0, 0, WIDTH, HEIGHT), 'part': (200, 100, 801, 603)}


def camera_info(region: tuple[int, int, int, int] = REGIONS['none'],
                binning: tuple[int, int] = (0, 0), lens: tuple[float, ...] = LENS) -> CameraInfo:
    x, y, width, height = region
    return SimpleNamespace(
        width=WIDTH, height=HEIGHT, distortion_model='plumb_bob', d=lens,
        k=[900.0, 0.0, 650.0, 0.0, 910.0, 470.0, 0.0, 0.0, 1.0],
        p=[850.0, 0.0, 640.0, -85.0, 0.0, 860.0, 480.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        binning_x=binning[0], binning_y=binning[1],
        roi=SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height,
                            do_rectify=False))


def in_image(pixels: np.ndarray, region: tuple[int, int, int, int],
             binning: tuple[int, int]) -> np.ndarray:
    """Return where pixels [n, 2] of the sensor are in the image, by the areas they cover."""
    edges = pixels + 0.5 - region[:2]  # the left edge of the image is 0
    return edges / np.maximum(binning, 1) - 0.5


@pytest.mark.parametrize('rectified', [False, True])
@pytest.mark.parametrize('binning', [(0, 0), (1, 1), (2, 2), (2, 4)])
@pytest.mark.parametrize('name', REGIONS)
def test_points_are_seen_where_the_binned_region_shows_them(
        name: str, binning: tuple[int, int], rectified: bool) -> None:
    region, info = REGIONS[name], camera_info(REGIONS[name], binning)
    points = np.random.default_rng(0).uniform((-1, -1, 2), (1, 1, 4), (50, 3))
    matrix = np.array(info.p if rectified else info.k).reshape(3, -1)[:, :3]
    lens = np.zeros(5) if rectified else np.array(LENS)
    on_sensor = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, lens)[0][:, 0]
    found = to_intrinsics(info, rectified)
    assert found.distortion == (None if rectified else Distortion('plumb_bob', LENS))
    seen = cv2.projectPoints(points, np.zeros(3), np.zeros(3), found.matrix, lens)[0][:, 0]
    np.testing.assert_allclose(seen, in_image(on_sensor, region, binning), atol=1e-9)
    width, height = (WIDTH, HEIGHT) if name != 'part' else region[2:]
    assert (found.width, found.height) == (width // max(1, binning[0]),
                                           height // max(1, binning[1]))


def test_the_mean_of_binned_pixels_lies_where_the_calibration_says() -> None:
    """A bright pixel of the sensor stays at its ray when the camera bins the image."""
    sensor = np.zeros((HEIGHT, WIDTH), np.float32)
    sensor[500:504, 700:704] = 1.0  # centred at (701.5, 501.5)
    image = sensor.reshape(HEIGHT // 4, 4, WIDTH // 4, 4).mean(axis=(1, 3))
    row, column = (float(one[0]) for one in np.nonzero(image))
    whole, binned = (to_intrinsics(camera_info(binning=(bins, bins), lens=(0.0,) * 5))
                     for bins in (1, 4))
    ray = (701.5 - whole.cx) / whole.fx, (501.5 - whole.cy) / whole.fy
    assert ((column - binned.cx) / binned.fx, (row - binned.cy) / binned.fy) == pytest.approx(ray)


@pytest.mark.parametrize('region', [
    (0, 0, 0, 100), (10, 10, 0, 0), (600, 0, 800, 100), (0, 900, 100, 100)])
def test_a_region_that_is_not_on_the_sensor_is_refused(
        region: tuple[int, int, int, int]) -> None:
    with pytest.raises(FrameError, match='a region of interest within 1280x960 pixels'):
        to_intrinsics(camera_info(region))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, -900.0])
@pytest.mark.parametrize('rectified', [False, True])
def test_a_matrix_of_other_numbers_is_refused_by_name(rectified: bool, value: float) -> None:
    info = camera_info()
    (info.p if rectified else info.k)[0] = value
    with pytest.raises(FrameError, match=f'focal lengths above 0 in {"P" if rectified else "K"}, '
                                         f'got fx {value}'):
        to_intrinsics(info, rectified)
    # The other matrix is not read.
    assert to_intrinsics(info, not rectified) is not None


def test_other_wrong_numbers_are_refused_by_name() -> None:
    info = camera_info(lens=(0.1, np.nan, 0.0, 0.0, 0.0))
    with pytest.raises(FrameError, match='expected finite numbers in D'):
        to_intrinsics(info)
    assert to_intrinsics(info, rectified=True) is not None
    for focal in (1e300, 1e6, 1.1, 1e-9):
        info = camera_info()
        info.k[0] = focal
        with pytest.raises(FrameError, match='focal lengths of 0.05 to 100 times .* 1280 pixels'):
            to_intrinsics(info)


def test_an_uncalibrated_camera_has_zeros() -> None:
    info = camera_info()
    info.k, info.p = [0.0] * 9, [0.0] * 12
    assert to_intrinsics(info) is None and to_intrinsics(info, rectified=True) is None


def test_the_model_of_a_fisheye_lens_has_two_names() -> None:
    info = camera_info(lens=(0.1, 0.01, 0.0, 0.0))
    info.distortion_model = 'fisheye'
    assert to_intrinsics(info).distortion == Distortion('equidistant', tuple(info.d))
