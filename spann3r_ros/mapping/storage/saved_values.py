# SPDX-License-Identifier: Apache-2.0
"""Poses, cameras and keyframes as parts of a saved tree."""
from __future__ import annotations

from typing import Any

import numpy as np

from spann3r_ros.core.camera import Distortion, Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import is_rigid, is_similarity
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.scale.map_scale import Scale

from .saved_tree import SavedNode

Tree = dict[str, Any]
MAX_STAMP_NS = 2**63 - 1


def intrinsics_tree(intrinsics: Intrinsics) -> Tree:
    """Return intrinsics, with their distortion."""
    distortion = intrinsics.distortion
    return {**{name: getattr(intrinsics, name)
               for name in ('fx', 'fy', 'cx', 'cy', 'width', 'height')},
            'distortion': None if distortion is None else {
                'model': distortion.model, 'coefficients': np.array(distortion.coefficients)}}


def read_intrinsics(node: SavedNode) -> Intrinsics:
    """Return the intrinsics of a node."""
    distortion = None
    if node.has('distortion'):
        saved = node.node('distortion')
        distortion = Distortion(saved.text('model'), tuple(
            saved.array('coefficients', np.float64, (None,)).tolist()))
    return Intrinsics(node.number('fx', 1e-6), node.number('fy', 1e-6), node.number('cx'),
                      node.number('cy'), node.integer('width', 1), node.integer('height', 1),
                      distortion)


def scale_tree(scale: Scale) -> Tree:
    """Return a scale."""
    return {'value': scale.value, 'metric': scale.metric, 'variance': scale.variance,
            'source': scale.source}


def read_scale(node: SavedNode) -> Scale:
    """Return the scale of a node."""
    return Scale(node.number('value', 1e-12), node.flag('metric'),
                 node.number('variance', 0.0, finite=False), node.text('source'))


def pose_tree(pose: FragmentPose) -> Tree:
    """Return a pose."""
    return {'stamp_ns': pose.stamp_ns, 'frame_id': pose.frame_id,
            'fragment_id': pose.fragment_id, 'transform': pose.fragment_from_camera,
            'covariance': pose.covariance}


def read_pose(node: SavedNode) -> FragmentPose:
    """Return the pose of a node."""
    covariance = read_covariance(node, 'covariance') if node.has('covariance') else None
    return FragmentPose(read_stamp(node), node.text('frame_id'), node.integer('fragment_id'),
                        read_rigid(node, 'transform'), covariance)


def read_stamp(node: SavedNode) -> int:
    """Return the stamp of a node."""
    return node.integer('stamp_ns', 0, MAX_STAMP_NS)


def read_rigid(node: SavedNode, name: str) -> np.ndarray:
    """Return a rigid transform [4, 4]."""
    transform = node.array(name, np.float64, (4, 4))
    if not is_rigid(transform):
        raise node.fault(name, 'a rigid transform', transform.tolist())
    return transform


def read_similarity(node: SavedNode, name: str) -> np.ndarray:
    """Return a similarity [4, 4]."""
    transform = node.array(name, np.float64, (4, 4))
    if not is_similarity(transform):
        raise node.fault(name, 'a similarity', transform.tolist())
    return transform


def read_covariance(node: SavedNode, name: str, size: int = 6) -> np.ndarray:
    """Return a covariance [size, size]."""
    covariance = node.array(name, np.float64, (size, size))
    if not is_covariance(covariance):
        raise node.fault(name, 'a symmetric matrix of non-negative variances',
                         covariance.tolist())
    return covariance


def is_covariance(matrix: np.ndarray) -> bool:
    """Return whether a finite matrix is symmetric with a diagonal >= 0, up to rounding."""
    size = np.abs(matrix).max()
    return bool(np.abs(matrix - matrix.T).max() <= 1e-6 * size
                and matrix.diagonal().min() >= -1e-9 * size)


def keyframe_tree(keyframe: Keyframe) -> Tree:
    """Return a complete keyframe."""
    return {'stamp_ns': keyframe.stamp_ns, 'frame_id': keyframe.frame_id,
            'fragment_id': keyframe.fragment_id, 'image': keyframe.image,
            'intrinsics': intrinsics_tree(keyframe.intrinsics), 'depth': keyframe.depth,
            'confidence': keyframe.confidence,
            'pose': None if keyframe.pose is None else pose_tree(keyframe.pose),
            'unposed_points': keyframe.unposed_points, 'descriptor': keyframe.descriptor}


def read_keyframe(node: SavedNode) -> Keyframe:
    """Return the keyframe of a node."""
    intrinsics = read_intrinsics(node.node('intrinsics'))
    size = intrinsics.height, intrinsics.width
    depth = node.array('depth', np.float32, size, finite=False)
    if (depth <= 0.0).any() or np.isinf(depth).any():
        raise node.fault('depth', 'depths above zero, or NaN', 'others')
    points = None
    if node.has('unposed_points'):
        points = node.array('unposed_points', np.float32, (*size, 3), finite=False)
    return Keyframe(read_stamp(node), node.text('frame_id'), node.integer('fragment_id'),
                    node.array('image', np.uint8, (*size, 3)), intrinsics, depth,
                    read_confidence(node, size),
                    read_pose(node.node('pose')) if node.has('pose') else None, points,
                    node.array('descriptor', np.float32, (None,)) if node.has('descriptor')
                    else None)


def read_confidence(node: SavedNode, size: tuple[int, int]) -> np.ndarray:
    """Return a confidence [h, w] from 0 to 1."""
    confidence = node.array('confidence', np.float32, size)
    if confidence.size and not 0.0 <= confidence.min() <= confidence.max() <= 1.0:
        raise node.fault('confidence', 'values from 0 to 1',
                         f'{confidence.min()} to {confidence.max()}')
    return confidence
