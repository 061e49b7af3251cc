# SPDX-License-Identifier: Apache-2.0
"""Bags are read as they were written."""
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from scipy.spatial.transform import Rotation

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.datasets.bag_truth import read_truth
from spann3r_ros.datasets.bag_writer import STORAGES, BagWriter, TruthTopics

CAMERA = Intrinsics(100.0, 101.0, 40.5, 30.5, 82, 62)
START_NS = 1_700_000_000_123_456_789


def true_poses(count: int) -> np.ndarray:
    """Return random rigid transforms."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=0).as_matrix()
    poses[:, :3, 3] = np.random.default_rng(0).normal(size=(count, 3))
    return poses


@pytest.mark.parametrize('storage', STORAGES)
def test_truth_is_read_back_from_a_bag(tmp_path: Path, storage: str) -> None:
    poses, topics = true_poses(3), TruthTopics()
    points = np.random.default_rng(1).normal(size=(50, 3))
    outline = np.array([[0.0, 0, 0], [4, 0, 0], [4, 5, 0], [0, 5, 0]])
    with BagWriter(tmp_path / 'bag', storage) as bag:
        bag.write_points(topics.points, START_NS, points)
        bag.write_outline(topics.outline, START_NS, outline)
        for i, pose in enumerate(poses):
            bag.write_pose(topics.poses, START_NS + i, pose)
    truth = read_truth(tmp_path / 'bag')
    assert truth is not None
    assert [pose.stamp_ns for pose in truth.poses] == [START_NS, START_NS + 1, START_NS + 2]
    np.testing.assert_allclose([p.world_from_camera for p in truth.poses], poses, atol=1e-12)
    np.testing.assert_allclose(truth.points, points, rtol=1e-6)
    np.testing.assert_array_equal(truth.outline, outline)


def test_bag_without_truth_returns_none(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write_image('/camera', START_NS, b'\xff\xd8')
    assert read_truth(tmp_path / 'bag') is None


def test_image_and_camera_keep_stamp_and_content(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag', optical_frame='eye') as bag:
        bag.write_camera_info('/camera_info', START_NS, CAMERA)
        bag.write_image('/image', START_NS, b'\xff\xd8 a picture')
    with AnyReader([tmp_path / 'bag']) as reader:
        found = {c.topic: reader.deserialize(data, c.msgtype) for c, _, data in reader.messages()}
    image, camera = found['/image'], found['/camera_info']
    assert image.data.tobytes() == b'\xff\xd8 a picture'
    assert (image.header.stamp.sec, image.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert image.header.frame_id == camera.header.frame_id == 'eye'
    np.testing.assert_array_equal(camera.k.reshape(3, 3), CAMERA.matrix)
    assert (camera.width, camera.height) == (82, 62)


def test_unknown_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="storage: expected one of .*, got 'zip'"):
        BagWriter(tmp_path / 'bag', 'zip')


def test_existing_bag_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match='bag: .* exists'):
        BagWriter(tmp_path)
