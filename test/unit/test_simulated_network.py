# SPDX-License-Identifier: Apache-2.0
"""The simulated network: what it recognises, how it errs, and that it answers no truth unasked."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from spann3r_ros.core.types import FrameError
from spann3r_ros.rooms.buildings.building import draw_building
from spann3r_ros.rooms.buildings.building_views import BuildingViews, camera_poses
from spann3r_ros.rooms.buildings.robot_walk import drive
from spann3r_ros.tools.building_bag import wide_camera
from spann3r_ros.tools.recorded_views import TrueViews
from spann3r_ros.tools.simulated_network import (
    SimulatedNetwork,
    SimulatedSettings,
    describe,
    write_entry_point,
)

CAMERA = wide_camera(64, 48)
FRAMES = 150
EXACT = SimulatedSettings(unit=1.0, unit_spread=0.0, depth_error=0.0, noise=0.0, turn_drift=0.0,
                          scale_drift=0.0)


@pytest.fixture(scope='module')
def recording() -> tuple[TrueViews, np.ndarray]:
    building = draw_building(5)
    poses = camera_poses(drive(building.way, FRAMES, 0.0, np.random.default_rng(1)))
    rendered = list(BuildingViews(building).render(poses, CAMERA))
    return TrueViews.of(rendered, poses, CAMERA), np.stack([image for image, _ in rendered])


def true_points(views: TrueViews, index: int, origin: int) -> np.ndarray:
    """Return the true points [h, w, 3] of an image in the frame of another one's camera."""
    v, u = np.indices((CAMERA.height, CAMERA.width))
    depth = views.depths[index].astype(float)
    seen = np.stack([(u - CAMERA.cx) / CAMERA.fx * depth, (v - CAMERA.cy) / CAMERA.fy * depth,
                     depth], axis=-1)
    moved = np.linalg.inv(views.poses[origin]) @ views.poses[index]
    return seen @ moved[:3, :3].T + moved[:3, 3]


def test_without_errors_the_answers_are_the_truth(recording: tuple[TrueViews, np.ndarray]) -> None:
    views, images = recording
    network = SimulatedNetwork(views, EXACT)
    for index in (20, 21, 25):
        found, = network.step(images[index], index)
        assert (found.image_id, found.reference_id, found.final) == (index, 20, True)
        assert np.abs(found.pointmap.points - true_points(views, index, 20)).max() < 0.02
    assert 0.0 < found.pointmap.confidence.min() <= found.pointmap.confidence.max() < 1.0


def test_errors_are_as_large_as_the_settings_say(recording: tuple[TrueViews, np.ndarray]) -> None:
    views, images = recording
    units = []
    for start in range(0, 100, 5):
        network = SimulatedNetwork(views, SimulatedSettings(noise=0.0))
        found, = network.step(images[start], 0)
        ratio = found.pointmap.points[..., 2] / views.depths[start].astype(float)
        units.append(np.median(ratio))
        spread = ratio / units[-1] - 1.0
        assert 0.01 < np.abs(spread).max() < 0.07
    assert np.std(np.log(units)) == pytest.approx(0.1, abs=0.04)
    assert np.exp(np.mean(np.log(units))) == pytest.approx(0.37, rel=0.1)


def test_a_sequence_drifts_and_a_reset_ends_that(recording: tuple[TrueViews, np.ndarray]) -> None:
    views, images = recording
    drifting = SimulatedSettings(unit=1.0, unit_spread=0.0, depth_error=0.0, noise=0.0,
                                 turn_drift=0.02, scale_drift=0.0)
    network = SimulatedNetwork(views, drifting)
    for index in range(30):
        found, = network.step(images[index], index)
    far = np.abs(found.pointmap.points - true_points(views, 29, 0)).max()
    network.reset()
    found, = network.step(images[29], 29)
    assert far > 0.3
    assert np.abs(found.pointmap.points - true_points(views, 29, 29)).max() < 0.02


def test_state_continues_a_sequence_exactly(recording: tuple[TrueViews, np.ndarray]) -> None:
    views, images = recording
    one, other = SimulatedNetwork(views), SimulatedNetwork(views)
    for index in range(5):
        one.step(images[index], index)
    other.restore(one.state())
    expected, found = one.step(images[5], 5)[0], other.step(images[5], 5)[0]
    assert np.array_equal(expected.pointmap.points, found.pointmap.points)
    assert found.reference_id == 0


def test_images_are_recognised_after_jpeg_and_others_are_refused(
        recording: tuple[TrueViews, np.ndarray]) -> None:
    views, images = recording
    for index in range(0, FRAMES, 7):
        decoded = cv2.imdecode(cv2.imencode('.jpg', images[index])[1], cv2.IMREAD_COLOR)
        found = views.find(decoded)
        # Where the robot stands, neighbours show the same.
        assert np.linalg.norm(views.poses[found, :3, 3] - views.poses[index, :3, 3]) < 0.1
    with pytest.raises(FrameError, match='expected one of the recording'):
        views.find(np.random.default_rng(0).integers(0, 255, images[0].shape, np.uint8))


def test_pairs_that_share_nothing_get_no_truth(recording: tuple[TrueViews, np.ndarray]) -> None:
    views, images = recording
    network = SimulatedNetwork(views, EXACT)
    near, = (network.pair(images[10], images[12])[1],)
    assert np.abs(near.pointmap.points - true_points(views, 12, 10)).max() < 0.02
    other = max(range(FRAMES), key=lambda index: np.linalg.norm(
        views.poses[index, :3, 3] - views.poses[10, :3, 3]))
    assert views.overlap(10, other) == 0.0 and views.overlap(10, 10) > 0.95
    wrong = network.pair(images[10], images[other])
    assert wrong[0].pointmap.confidence.max() < 0.35
    off = np.linalg.norm(wrong[1].pointmap.points - true_points(views, other, 10), axis=-1)
    assert np.median(off) > 1.0


def test_descriptors_are_nearest_where_the_robot_returns(
        recording: tuple[TrueViews, np.ndarray]) -> None:
    views, images = recording
    descriptors = np.stack([describe(image) for image in images])
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1.0, atol=1e-5)
    similarity = descriptors[-1] @ descriptors.T
    assert similarity[:100].argmax() < 3


def test_views_survive_the_file_and_other_files_are_refused(
        recording: tuple[TrueViews, np.ndarray], tmp_path: Path) -> None:
    views, _ = recording
    views.save(tmp_path / 'a.views')
    again = TrueViews.load(tmp_path / 'a.views')
    assert again.identity == views.identity and again.camera == CAMERA
    assert np.array_equal(again.depths, views.depths)
    (tmp_path / 'b.views').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='expected the views of a recording'):
        TrueViews.load(tmp_path / 'b.views')


def test_entry_point_registers_it_in_another_process(
        recording: tuple[TrueViews, np.ndarray], tmp_path: Path) -> None:
    recording[0].save(tmp_path / 'a.views')
    code = ('from pathlib import Path\n'
            'from spann3r_ros.networks.registry import open_network\n'
            f'print(open_network(Path({str(tmp_path / "a.views")!r})).name)')
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([
        str(write_entry_point(tmp_path / 'network')), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          env=environment, timeout=120)
    assert done.stdout.strip() == 'simulated', done.stderr
