# SPDX-License-Identifier: Apache-2.0
"""The `map.npz` of earlier versions as a saved map of one fragment."""
from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spann3r_ros.core.keyframe import depth_of_points
from spann3r_ros.core.transforms import invert

from .saved_tree import SavedNode, decode_tree, encode_tree

FORMER_FORMAT = 1
# The arrays of a map are not compressed to less than this share; other content is.
MOST_COMPRESSION = 100
# Columns of the former sums after those of the present ones.
OBSERVATIONS, OBSERVED_AT, FORMER_COLUMNS = 8, 9, 10
LOADED = 'a map was loaded'


def read_former_map(path: Path) -> SavedNode:
    """Return the saved state of a `map.npz`; raise ValueError with the file and its fault."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist())
        if size > MOST_COMPRESSION * path.stat().st_size:
            raise ValueError(f'{size} bytes in a file of {path.stat().st_size}')
        with np.load(path, allow_pickle=False) as file:
            tree = _tree(json.loads(str(file['about'])), file)
        return decode_tree(*encode_tree(tree))
    except (KeyError, TypeError, ValueError, IndexError, EOFError, MemoryError, zlib.error,
            NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path}: expected a map that this package saved: '
                         f'{type(error).__name__}: {error}') from error


def _tree(about: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if about['format'] != FORMER_FORMAT:
        raise ValueError(f'expected format {FORMER_FORMAT}, got {about["format"]}')
    frame_id, (height, width) = about['camera']
    posed = 'anchor_intrinsics' not in about
    anchor = None if posed else _anchor(about, arrays, frame_id)
    poses: dict[str, Any] = {'failed': 0, 'gated': 0, 'resets': 0, 'live_failed': 0,
                             'restart_reason': ''}
    if posed:
        poses |= {'waiting': [], 'failures': 0, 'given_place': None, 'scales': {
            'since': 0, 'scale': about['scale'], 'views': [], 'comparisons': []}}
    else:
        poses |= {'anchor': anchor, 'placements_failed': 0, 'placed_scale': 1.0, 'focal': 0.0,
                  'anchor_origin': about['fragment_id'],
                  'filter': _filter(anchor['pose']),
                  'corners': {'corners': None, 'tracked': None}}
    return {
        'layers': {'voxels': {'voxel_size': about['voxel_size'], 'evicted': 0,
                              'out_of_reach': 0, 'tick': about['tick']}},
        'state': {
            'camera': {'frame_id': frame_id, 'height': height, 'width': width},
            'phase': 'tracking', 'levelled': True, 'image_ids': 0,
            'intrinsics': about['intrinsics'], 'coverage': 1.0, 'keyframes': about['keyframes'],
            'keyframes_left_out': 0, 'focal': {'logs': np.zeros(0), 'fixed': True},
            'restart_reason': LOADED,
            'gate': {'since_admitted': 10_000, 'skipped': 0, 'admitted_stamp_ns': None},
            'pose_source': 'given' if posed else 'solved', 'poses': poses,
            'atlas': _atlas(about, arrays), 'pending': [], 'replays': []}}


def _filter(pose: dict[str, Any]) -> dict[str, Any]:
    """Return a filter that begins at a pose."""
    nothing, covariance = np.zeros((6, 6)), pose['covariance']
    if covariance is None:
        covariance = nothing
    return {'mean_gain': 1.0, 'state': {
        'camera': pose['transform'], 'in_network': pose['transform'],
        'covariance': np.tile(covariance, (2, 2)), 'shared_covariance': nothing,
        'distance': math.inf, 'growth': nothing, 'lost': False, 'rejected': 0,
        'jump': None}}


def _anchor(about: dict[str, Any], arrays: Mapping[str, np.ndarray],
            frame_id: str) -> dict[str, Any]:
    transform, covariance = arrays['anchor_poses'][0], arrays['anchor_covariances'][0]
    depth = depth_of_points(invert(transform), arrays['anchor_points'])
    known = np.isfinite(depth)
    pose = {'stamp_ns': int(arrays['anchor_stamps'][0]), 'frame_id': frame_id,
            'fragment_id': about['fragment_id'], 'transform': transform,
            'covariance': None if np.isnan(covariance).any() else covariance}
    return {'stamp_ns': pose['stamp_ns'], 'frame_id': frame_id,
            'fragment_id': about['fragment_id'], 'image': arrays['anchor_image'],
            'intrinsics': about['anchor_intrinsics'], 'depth': depth,
            'confidence': np.where(known, arrays['anchor_confidence'], np.float32(0.0)),
            'pose': pose, 'unposed_points': None}


def _atlas(about: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    keys, sums = arrays['voxel_keys'], arrays['voxel_sums']
    if sums.ndim != 2 or sums.shape[1] != FORMER_COLUMNS:
        raise ValueError(f'voxel_sums: expected {FORMER_COLUMNS} columns, got {sums.shape}')
    order = np.argsort(keys, kind='stable')
    none = np.zeros(0)
    return {
        'revision': 0, 'current': about['fragment_id'], 'constraints': [],
        'keyframes': {'added': 0, 'stride': 1, 'compacted': 0, 'evicted': 0},
        'fragments': [{
            'id': about['fragment_id'], 'received': about['keyframes'], 'scale': about['scale'],
            'map_from_fragment': np.eye(4), 'fragment_from_sequence': np.eye(4),
            'path': {'stamps': arrays['path_stamps'], 'transforms': arrays['path_poses'],
                     'covariances': arrays['path_covariances']},
            'keyframes': {
                'numbers': none.astype(np.int64), 'images': none.astype(np.uint8),
                'image_ends': none.astype(np.int64), 'stamps': none.astype(np.int64),
                'depths': none.astype(np.float16).reshape(0, 0, 0),
                'intrinsics': none.reshape(0, 4), 'transforms': none.reshape(0, 4, 4),
                'covariances': none.reshape(0, 6, 6)},
            'stores': {'voxels': {
                'sums': sums[:, :OBSERVATIONS],
                'observations': sums[:, OBSERVATIONS].astype(np.int32),
                'observed_at': sums[:, OBSERVED_AT].astype(np.int32),
                'sorted_keys': keys[order], 'key_rows': order.astype(np.int32)}}}]}
