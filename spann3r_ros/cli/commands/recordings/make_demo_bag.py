# SPDX-License-Identifier: Apache-2.0
"""`spann3r make-demo-bag`: writes a bag of a procedural room, with ground truth."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spann3r_ros.rooms.room_generator import RoomBatch

SUMMARY = 'render the demonstration bag: a room never seen in training, with ground truth'
START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class DemoRoom:
    """The bundled recording; its seeds are used neither in training nor in evaluation."""

    frames: int = 60
    size: int = 320
    turn_deg_per_frame: float = 3.0
    seed: int = 90_006
    textures_seed: int = 90_004
    rate: float = 10.0
    jpeg_quality: int = 88
    truth_points: int = 30_000
    image_topic: str = '/camera/image_raw/compressed'
    info_topic: str = '/camera/camera_info'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    room = DemoRoom()
    parser.add_argument('bag', type=Path, help='bag folder to write')
    parser.add_argument('--frames', type=int, default=room.frames, help='default: %(default)s')
    parser.add_argument('--size', type=int, default=room.size,
                        help='image side in pixels (default: %(default)s)')
    parser.add_argument('--turn', type=float, default=room.turn_deg_per_frame,
                        help='degrees of yaw per frame (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=room.seed, help='default: %(default)s')
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                        help='default: %(default)s')


def run(args: argparse.Namespace) -> int:
    """Render and write the bag."""
    room = DemoRoom(frames=args.frames, size=args.size, turn_deg_per_frame=args.turn,
                    seed=args.seed)
    write_bag(args.bag, args.storage, room, render(room))
    size = sum(path.stat().st_size for path in args.bag.iterdir())
    print(f'wrote {args.bag}: {room.frames} images, {size / 1e6:.1f} MB')
    return 0


def render(room: DemoRoom) -> RoomBatch:
    """Return the images of one room, without camera noise: JPEG adds its own errors."""
    from spann3r_ros.rooms.room_generator import RoomConfig, RoomGenerator
    config = RoomConfig(size=room.size, noise=0.0, gain=0.0, exposure=0.0)
    generator = RoomGenerator(config, room.seed, room.textures_seed)
    return generator.batch(1, room.frames, trajectory='turn',
                           turn_deg_per_frame=room.turn_deg_per_frame)


def write_bag(path: Path, storage: str, room: DemoRoom, batch: RoomBatch) -> None:
    """Write images, calibration and truth; the world has z up and its origin in a room corner."""
    import cv2
    import numpy as np

    from spann3r_ros.core.camera import Intrinsics
    from spann3r_ros.datasets.bag_writer import BagWriter, TruthTopics
    from spann3r_ros.evaluation.measures.metrics import subsample
    world_from_first = batch.world_from_first[0].double().numpy()
    poses = world_from_first @ batch.camera_poses[0].double().numpy()
    points = subsample(batch.points[0].numpy().reshape(-1, 3), room.truth_points)
    world_points = points @ world_from_first[:3, :3].T + world_from_first[:3, 3]
    matrix = batch.intrinsics[0].double().numpy()
    camera = Intrinsics(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], room.size,
                        room.size)
    width, depth, _ = batch.room_size[0].tolist()
    topics = TruthTopics()
    with BagWriter(path, storage) as bag:
        bag.write_points(topics.points, START_NS, world_points)
        bag.write_outline(topics.outline, START_NS, np.array(
            [[0.0, 0.0, 0.0], [width, 0.0, 0.0], [width, depth, 0.0], [0.0, depth, 0.0]]))
        for index, image in enumerate(batch.images[0].permute(0, 2, 3, 1).numpy()):
            stamp_ns = START_NS + round(index * 1e9 / room.rate)
            encoded, jpeg = cv2.imencode('.jpg', image[..., ::-1],
                                         [cv2.IMWRITE_JPEG_QUALITY, room.jpeg_quality])
            if not encoded:
                raise ValueError(f'image {index}: cannot be encoded as JPEG')
            bag.write_camera_info(room.info_topic, stamp_ns, camera)
            bag.write_image(room.image_topic, stamp_ns, jpeg.tobytes())
            bag.write_pose(topics.poses, stamp_ns, poses[index])
