# SPDX-License-Identifier: Apache-2.0
"""Fragments as parts of a saved map.

All keyframes are saved in compact form, which other programs can show. Those that are complete are
saved completely as well, so that a map that is continued verifies the same loops.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.image_files.file_headers import read_header
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import is_rigid
from spann3r_ros.core.types import FragmentPose, FrameError
from spann3r_ros.mapping.layers.layer import Layer
from spann3r_ros.mapping.storage.saved_tree import LateTree, SavedNode, vars_of
from spann3r_ros.mapping.storage.saved_values import (
    is_covariance,
    read_scale,
    read_similarity,
    scale_tree,
)

from .constraint import read_constraint
from .fragment import Fragment
from .keyframe_store import CompactKeyframe, KeptKeyframe, compacted
from .pose_series import PoseSeries

INTRINSICS = ('fx', 'fy', 'cx', 'cy')
FULL = ('image', 'depth', 'confidence')


def fragment_tree(fragment: Fragment, layers: Sequence[Layer],
                  min_confidence: float) -> dict[str, Any]:
    """Return a fragment; images are compressed when the tree is encoded."""
    path, keyframes = fragment.path, dict(fragment.keyframes)
    return {
        'id': fragment.id, 'received': fragment.received, 'connected': fragment.connected,
        'scale': scale_tree(fragment.scale),
        **({'unlocated': True} if fragment.unlocated else {}),
        'map_from_fragment': fragment.map_from_fragment,
        'fragment_from_sequence': fragment.fragment_from_sequence,
        'path': {**_poses_tree(path.stamps, path.transforms, path.covariances),
                 'totals': path.totals()},
        'gap': fragment.gap, 'after_gap': fragment.after_gap,
        'join': None if fragment.join is None else vars_of(fragment.join),
        'keyframes': LateTree(lambda: _keyframes_tree(keyframes, min_confidence)),
        'stores': {layer.name: layer.store_tree(fragment.stores[layer.name]) for layer in layers}}


def read_fragment(node: SavedNode, layers: Mapping[str, tuple[Layer, Any]],
                  frame_id: str) -> Fragment:
    """Return the fragment of a node; `layers` are by name, each with its counters."""
    identifier = node.integer('id')
    stores = node.node('stores')
    return Fragment(
        identifier, read_similarity(node, 'map_from_fragment'),
        read_similarity(node, 'fragment_from_sequence'), read_scale(node.node('scale')),
        _read_path(node.node('path')),
        _read_keyframes(node.node('keyframes'), identifier, frame_id),
        {name: layer.new_store() if counters is None
         else layer.read_store(stores.node(name), counters)
         for name, (layer, counters) in layers.items()},
        received=node.integer('received'),
        # Maps of earlier versions have no such entries.
        connected=node.flag('connected') if node.has('connected') else True,
        unlocated=node.flag('unlocated') if node.has('unlocated') else False,
        gap=node.number('gap', 0.0) if node.has('gap') else 0.0,
        after_gap=node.flag('after_gap') if node.has('after_gap') else False,
        join=read_constraint(node.node('join')) if node.has('join') else None)


def _read_path(node: SavedNode) -> PoseSeries:
    path = PoseSeries.of(*_read_poses(node))
    # Maps of earlier versions have no such entry.
    if node.has('totals'):
        path.restore_totals(node.node('totals'))
    return path


def _poses_tree(stamps: np.ndarray, transforms: np.ndarray,
                covariances: np.ndarray) -> dict[str, np.ndarray]:
    return {'stamps': stamps, 'transforms': transforms, 'covariances': covariances}


def _read_poses(node: SavedNode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stamps = node.array('stamps', np.int64, (None,))
    n = len(stamps)
    transforms = node.array('transforms', np.float64, (n, 4, 4))
    covariances = node.array('covariances', np.float64, (n, 6, 6), finite=False)
    if n and stamps.min() < 0:
        raise node.fault('stamps', 'stamps of 0 or more', stamps.min())
    for index in range(n):
        if not is_rigid(transforms[index]):
            raise node.fault('transforms', 'rigid transforms', transforms[index].tolist())
        unknown = np.isnan(covariances[index]).all()
        if not unknown and not is_covariance(covariances[index]):
            raise node.fault('covariances', 'symmetric matrices of non-negative variances',
                             covariances[index].tolist())
    return stamps, transforms, covariances


def _keyframes_tree(keyframes: Mapping[int, KeptKeyframe],
                    min_confidence: float) -> dict[str, np.ndarray]:
    kept = [compacted(one, min_confidence) if isinstance(one, Keyframe) else one
            for one in keyframes.values()]
    height, width = kept[0].depth.shape if kept else (0, 0)
    images = [one.jpeg.reshape(-1) for one in kept]
    unknown = np.full((6, 6), np.nan)
    return {
        'numbers': np.array(list(keyframes), np.int64),
        'images': np.concatenate([*images, np.zeros(0, np.uint8)]),
        'image_ends': np.cumsum([len(one) for one in images], dtype=np.int64),
        'depths': np.array([one.depth for one in kept], np.float16).reshape(
            len(kept), height, width),
        'intrinsics': np.array([[getattr(one.intrinsics, name) for name in INTRINSICS]
                                for one in kept], float).reshape(len(kept), len(INTRINSICS)),
        'descriptors': _descriptors([one.descriptor for one in kept]),
        'full': _full_tree(keyframes),
        **_poses_tree(
            np.array([one.stamp_ns for one in kept], np.int64),
            np.array([one.pose.fragment_from_camera for one in kept]).reshape(-1, 4, 4),
            np.array([unknown if one.pose.covariance is None else one.pose.covariance
                      for one in kept]).reshape(-1, 6, 6))}


def _full_tree(keyframes: Mapping[int, KeptKeyframe]) -> dict[str, np.ndarray] | None:
    """Return the images, depths and confidences of the complete keyframes; None without any."""
    full = {number: one for number, one in keyframes.items() if isinstance(one, Keyframe)}
    if not full:
        return None
    return {'numbers': np.array(list(full), np.int64),
            **{f'{name}s': np.array([getattr(one, name) for one in full.values()])
               for name in FULL}}


def _read_full(node: SavedNode, found: dict[int, KeptKeyframe], size: tuple[int, int]) -> None:
    """Put complete keyframes in the place of their compact form."""
    numbers = node.array('numbers', np.int64, (None,))
    if len(set(numbers.tolist())) < len(numbers) or not set(numbers.tolist()) <= set(found):
        raise node.fault('numbers', 'numbers of the keyframes, each once', numbers.tolist())
    shape = (len(numbers), *size)
    images = node.array('images', np.uint8, (*shape, 3))
    depths = node.array('depths', np.float32, shape, finite=False)
    confidences = node.array('confidences', np.float32, shape)
    with np.errstate(invalid='ignore'):
        if (depths <= 0.0).any() or np.isinf(depths).any():
            raise node.fault('depths', 'depths above zero, or NaN', 'others')
    if len(confidences) and not 0.0 <= confidences.min() <= confidences.max() <= 1.0:
        raise node.fault('confidences', 'values from 0 to 1', 'others')
    for number, *arrays in zip(numbers.tolist(), images, depths, confidences, strict=True):
        one = found[number]
        image, depth, confidence = (array.copy() for array in arrays)
        found[number] = Keyframe(one.stamp_ns, one.frame_id, one.fragment_id, image,
                                 one.intrinsics, depth, confidence, one.pose,
                                 descriptor=one.descriptor)


def _descriptors(descriptors: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return descriptors as float32 [n, d], NaN for keyframes without; d is 0 if all lack it."""
    size = max((len(one) for one in descriptors if one is not None), default=0)
    rows = np.full((len(descriptors), size), np.nan, np.float32)
    for row, one in zip(rows, descriptors, strict=True):
        if one is not None:
            row[:] = one
    return rows


def _read_descriptors(node: SavedNode, count: int) -> list[np.ndarray | None]:
    # Maps of earlier versions have no such entry.
    if not node.has('descriptors'):
        return [None] * count
    rows = node.array('descriptors', np.float32, (count, None), finite=False)
    unknown = np.isnan(rows).all(axis=1)
    if not np.isfinite(rows[~unknown]).all():
        raise node.fault('descriptors', 'finite numbers, or NaN for all of a keyframe', 'others')
    return [None if lost else row for lost, row in zip(unknown, rows, strict=True)]


def _read_keyframes(node: SavedNode, fragment_id: int,
                    frame_id: str) -> dict[int, KeptKeyframe]:
    stamps, transforms, covariances = _read_poses(node)
    n = len(stamps)
    numbers = node.array('numbers', np.int64, (n,))
    depths = node.array('depths', np.float16, (n, None, None), finite=False)
    intrinsics = node.array('intrinsics', np.float64, (n, len(INTRINSICS)))
    descriptors = _read_descriptors(node, n)
    images, ends = node.array('images', np.uint8, (None,)), node.array('image_ends', np.int64,
                                                                       (n,))
    starts = np.concatenate([[0], ends[:-1]]) if n else ends
    if n and not ((starts < ends).all() and ends[-1] == len(images)):
        raise node.fault('image_ends', f'ascending numbers up to {len(images)}', 'others')
    if n and (numbers[0] < 0 or (np.diff(numbers) <= 0).any()):
        raise node.fault('numbers', 'ascending numbers', 'others')
    if n and intrinsics[:, :2].min() <= 0.0:
        raise node.fault('intrinsics', 'focal lengths above zero', intrinsics[:, :2].min())
    height, width = depths.shape[1:]
    found: dict[int, KeptKeyframe] = {}
    for index in range(n):
        jpeg = images[starts[index]:ends[index]]
        if not _is_jpeg(jpeg, (height, width)):
            raise node.fault('images', f'JPEG images of {width}x{height} pixels', 'another')
        covariance = None if np.isnan(covariances[index]).any() else covariances[index]
        stamp_ns = int(stamps[index])
        found[int(numbers[index])] = CompactKeyframe(
            stamp_ns, frame_id, fragment_id, jpeg, Intrinsics(*intrinsics[index], width, height),
            depths[index],
            FragmentPose(stamp_ns, frame_id, fragment_id, transforms[index], covariance),
            descriptors[index])
    # Maps of earlier versions have no such entry.
    if node.has('full'):
        _read_full(node.node('full'), found, (height, width))
    return found


def _is_jpeg(jpeg: np.ndarray, size: tuple[int, int]) -> bool:
    """Return whether an image of a size can be decoded; its header is read before its pixels."""
    try:
        header = read_header(jpeg.tobytes(), 'jpeg')
    except FrameError:
        return False
    if header.kind != 'JPEG' or (header.height, header.width) != size:
        return False
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR) is not None
