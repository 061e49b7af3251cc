# SPDX-License-Identifier: Apache-2.0
"""Settings of the mapping layer: the one home of their defaults, ranges and descriptions."""
from __future__ import annotations

from dataclasses import dataclass, field, fields

from spann3r_ros.core.settings import RUNNING, check_settings, setting

from .occupancy.grid_config import GridConfig


@dataclass(frozen=True)
class KeyframeConfig:
    """Which frames reach the network, and what is kept of them; the others are skipped."""

    stride: int = setting(1, 'Every how many frames one is used', 1, 10_000, applies=RUNNING)
    min_interval_sec: float = setting(
        0.0, 'Least time between the stamps of two used frames', 0.0, 3600.0, applies=RUNNING)
    max_full_bytes: int = setting(
        64_000_000, 'Most bytes of complete keyframes; older ones keep a JPEG image and a depth '
        'in half precision', 0, 2**40, applies=RUNNING)
    max_bytes: int = setting(
        1_000_000_000, 'Most bytes of all keyframes; beyond, keyframes are removed evenly along '
        'the path', 0, 2**40, applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class PoseConfig:
    """How the camera pose is solved from a pointmap."""

    min_confidence: float = setting(
        0.001, 'Points at or below this confidence are not used for a pose', 0.0, 1.0,
        applies=RUNNING)
    best_fraction: float = setting(
        0.6, 'Share of the points used for a pose, most confident first; 1.0: all', 0.01, 1.0,
        applies=RUNNING)
    max_points: int = setting(
        2000, 'Most points a pose is solved from, a random selection of these', 50, 1_000_000,
        applies=RUNNING)
    ransac_iterations: int = setting(100, 'Most RANSAC rounds', 1, 100_000, applies=RUNNING)
    max_reprojection: float = setting(
        0.02, 'Largest reprojection error of an inlier, as a share of the image width',
        0.0005, 0.5, applies=RUNNING)
    min_inlier_fraction: float = setting(
        0.3, 'A pose with a smaller share of inliers is reported as failed', 0.0, 1.0,
        applies=RUNNING)
    track_corners: bool = setting(
        True, 'Filter the path with the motion of corners tracked from image to image, and move '
        'the points with it; false: every pose comes from its pointmap alone')
    pointmap_weight: float = setting(
        5.0, 'Weight of the pose of a pointmap in the filter. 1.0: its points have one error in '
        'common, as large as their residuals', 1e-6, 1000.0, applies=RUNNING)
    drift: float = setting(
        10.0, 'How fast the poses of pointmaps drift: covariance of the drift over a change of '
        'view of one (a shift by the mean depth, or a turn of one radian), divided by that of the '
        'pose of a pointmap of weight 1.0', 0.0, 1e6, applies=RUNNING)
    gate_probability: float = setting(
        0.9999, 'The pose of a pointmap is rejected if it differs from the one that tracked '
        'corners predict by more than this share of the differences that their covariances allow; '
        '1.0: never', 0.5, 1.0, applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class SightConfig:
    """Which images show too little to be used; they are skipped."""

    check: bool = setting(
        True, 'Skip images that show nothing: black, overexposed, blank, torn or much blurred '
        'ones, those that the mask covers, and those that repeat the one before', applies=RUNNING)
    min_detail: float = setting(
        0.17, 'Least contrast of places a few pixels wide, in gray levels a pixel of a copy 96 '
        'pixels wide; images with less are blank. 0.0: none is', 0.0, 100.0, applies=RUNNING)
    min_sharpness: float = setting(
        0.42, 'Least sharpness, as a share of that of the images of the last 5 s; images with '
        'less are blurred. 0.0: none is', 0.0, 1.0, applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class VoxelMapConfig:
    """Resolution and bounds of the map."""

    voxel_size: float = setting(
        0.0, 'Edge of a voxel in map units; 0.0: 1 % of the median depth of the first keyframe',
        0.0, 1000.0)
    max_voxels: int = setting(
        500_000, 'Most voxels kept; beyond, the least recently observed are removed, down to 98 %',
        100, 50_000_000)
    min_confidence: float = setting(
        0.1, 'Points below this confidence are left out of the map', 0.0, 1.0, applies=RUNNING)
    min_observations: int = setting(
        1, 'Keyframes that must have seen a voxel before it is shown', 1, 1000, applies=RUNNING)
    integrate_without_pose: bool = setting(
        False, 'Also merge the points of keyframes without a pose, where the network places them; '
        'false: these keyframes are counted and left out of the map', applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class MapperConfig:
    """All settings of the mapper."""

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    sight: SightConfig = field(default_factory=SightConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    voxel_map: VoxelMapConfig = field(default_factory=VoxelMapConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    field_of_view: str = setting(
        'crop', 'crop: the network sees the middle of a wide image; letterbox: it sees the whole '
        'image, smaller', choices=('crop', 'letterbox'))
    resampling: str = setting(
        'fast', 'exact: images are resized to the same bits as for training; fast: several times '
        'as fast, a few values differ, by one or two', choices=('fast', 'exact'))
    live_pose: bool = setting(
        True, 'Also solve the pose of the newest frame, before its points are refined',
        applies=RUNNING)
    path_max_size: int = setting(
        10_000, 'Most poses kept in the trajectory', 1, 10_000_000, applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)
        for item in fields(self):
            part, value = item.default_factory, getattr(self, item.name)
            if isinstance(part, type) and not isinstance(value, part):
                raise ValueError(f'MapperConfig.{item.name}: expected {part.__name__}, '
                                 f'got {value!r}')
