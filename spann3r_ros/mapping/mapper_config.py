# SPDX-License-Identifier: Apache-2.0
"""Settings of the mapping layer: the one home of their defaults, ranges and descriptions."""
from __future__ import annotations

from dataclasses import dataclass, field, fields

from spann3r_ros.core.settings import RUNNING, check_settings, setting

from .occupancy.grid_config import GridConfig
from .relocalisation.relocalisation_config import RelocalisationConfig
from .scale.scale_config import ScaleConfig


@dataclass(frozen=True)
class KeyframeConfig:
    """Which frames become keyframes, and what is kept of them.

    The others do not reach the network. They get a pose, and count as skipped.
    """

    selection: str = setting(
        'parallax', 'parallax: a frame becomes a keyframe when the view has changed; stride: '
        'every so many frames one does', choices=('parallax', 'stride'), applies=RUNNING)
    min_parallax: float = setting(
        0.02, 'Median flow of tracked corners since the last keyframe, without that of a '
        'rotation, that makes a keyframe, as a share of the image width', 0.001, 1.0,
        applies=RUNNING)
    min_overlap: float = setting(
        0.85, 'A frame that shows less of what the last keyframe shows becomes one; share of the '
        'view', 0.05, 0.99, applies=RUNNING)
    max_interval_sec: float = setting(
        5.0, 'After this time since the last keyframe any motion makes another one', 0.1, 3600.0,
        applies=RUNNING)
    after_change: int = setting(
        7, 'Keyframes of a camera that stands still after a part of the view has changed, at '
        'least 0.3 s apart: so many remove what has left from cloud and grid. 0: none', 0, 100,
        applies=RUNNING)
    stride: int = setting(
        1, 'Every how many frames one becomes a keyframe, if these are selected by stride', 1,
        10_000, applies=RUNNING)
    min_interval_sec: float = setting(
        0.0, 'Least time between the stamps of two keyframes', 0.0, 3600.0, applies=RUNNING)
    max_full_bytes: int = setting(
        64_000_000, 'Most bytes of complete keyframes; older ones keep a JPEG image and a depth '
        'in half precision', 0, 2**40, applies=RUNNING)
    max_bytes: int = setting(
        1_000_000_000, 'Most bytes of all keyframes; beyond, keyframes are removed evenly along '
        'the path', 0, 2**40, applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class FragmentConfig:
    """When a fragment begins, and what it sees again of the one before; with solved poses."""

    max_keyframes: int = setting(
        40, 'Begin a fragment after so many keyframes of the one before. 0: never', 0, 1_000_000,
        applies=RUNNING)
    overlap_keyframes: int = setting(
        3, 'How many of the last keyframes a new fragment sees again; they join it to the one '
        'before', 1, 20, applies=RUNNING)
    min_confidence_share: float = setting(
        0.0, 'Begin a fragment when the share of confident pixels, over five keyframes, falls '
        'below this share of that with which the one before began. 0.0: never', 0.0, 1.0,
        applies=RUNNING)
    max_lost: int = setting(
        10, 'Begin a fragment that is not connected after so many keyframes in a row without a '
        'pose. 0: never', 0, 1_000_000, applies=RUNNING)

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
    edge_jump: float = setting(
        0.025, 'A point between a near and a far surface is left out if its inverse depth differs '
        'from both by more than this share; 0.0: none is', 0.0, 1.0, applies=RUNNING)
    max_depth: float = setting(
        0.0, 'Points deeper than this many times the median depth of their keyframe are left out; '
        '0.0: none are', 0.0, 1000.0, applies=RUNNING)
    min_observations: int = setting(
        1, 'Keyframes that must have seen a voxel before it is shown', 1, 1000, applies=RUNNING)
    integrate_without_pose: bool = setting(
        False, 'Also merge the points of keyframes without a pose, where the network places them; '
        'false: these keyframes are counted and left out of the map', applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class LoopConfig:
    """How places that are seen again are recognised and verified, and correct the map."""

    enabled: bool = setting(
        False, 'Recognise places that are seen again, and constrain the fragments by them. It '
        'needs weights that relate two images from places about 1 m apart; the bundled ones do '
        'not', applies=RUNNING)
    interval: int = setting(
        5, 'At most one candidate every so many keyframes is verified', 1, 10_000,
        applies=RUNNING)
    min_gap: int = setting(
        20, 'A candidate is at least so many keyframes older', 1, 100_000, applies=RUNNING)
    min_similarity: float = setting(
        0.6, 'Least similarity of a candidate, as a share of the similarity of keyframes in a row',
        0.0, 10.0, applies=RUNNING)
    min_support: float = setting(
        0.3, 'Least share of the pixels whose depth must be that of the other keyframe', 0.05, 1.0,
        applies=RUNNING)
    max_residual: float = setting(
        0.05, 'Largest median difference of the depths of two keyframes, as a share of the depth',
        0.001, 0.5, applies=RUNNING)
    min_correlation: float = setting(
        0.5, 'Least correlation of both images where their depths agree', 0.0, 1.0,
        applies=RUNNING)
    drift: float = setting(
        0.05, 'Standard deviation of the drift of the path, as a share of its length between two '
        'keyframes; a loop that corrects more than about five times as much is rejected',
        0.001, 10.0, applies=RUNNING)
    fragment_drift: float = setting(
        0.02, 'Standard deviation of the drift within a fragment, beside what the constraints '
        'say: as a share of the length of its path, in radians, and of its log scale',
        1e-4, 1.0, applies=RUNNING)
    gate_probability: float = setting(
        0.9999, 'A loop is rejected if it differs from what the other constraints say by more '
        'than this share of the differences that their covariances allow; 1.0: never', 0.5, 1.0,
        applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class CarvingConfig:
    """How voxels are removed that later keyframes look through."""

    enabled: bool = setting(
        True, 'Remove voxels that the rays of later keyframes pass: what has moved away, and '
        'points beside the surfaces', applies=RUNNING)
    min_votes: int = setting(
        3, 'A voxel is removed when this many more keyframes saw through it than saw it',
        1, 100, applies=RUNNING)
    max_hits: int = setting(
        3, 'Most votes that the keyframes that saw a voxel can add up to, so that what stood '
        'still for long can be removed too', 1, 27, applies=RUNNING)
    gap_sec: float = setting(
        1.0, 'A voxel is not removed before this time without a point in it, by the stamps of '
        'the images', 0.0, 60.0, applies=RUNNING)
    margin: float = setting(
        0.02, 'A ray passes a voxel if its point is farther by this share of the depth, and by '
        'the size of the voxel', 0.0, 1.0, applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class MapperConfig:
    """All settings of the mapper."""

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    sight: SightConfig = field(default_factory=SightConfig)
    fragments: FragmentConfig = field(default_factory=FragmentConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    voxel_map: VoxelMapConfig = field(default_factory=VoxelMapConfig)
    carving: CarvingConfig = field(default_factory=CarvingConfig)
    loops: LoopConfig = field(default_factory=LoopConfig)
    relocalisation: RelocalisationConfig = field(default_factory=RelocalisationConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
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
