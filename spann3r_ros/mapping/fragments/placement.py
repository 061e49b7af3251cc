# SPDX-License-Identifier: Apache-2.0
"""The placement of a new fragment by the last keyframe before it, which is its first image."""
from __future__ import annotations

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import FrameError, Pointmap

MIN_SHARED_POINTS = 50
# A depth ratio agrees with the median if the logarithm of their quotient is below this.
MAX_DISAGREEMENT = 0.1
# Least share of the ratios that must agree.
MIN_AGREEING = 0.5


class AlignmentError(FrameError):
    """A fragment cannot be placed by the keyframe it shares with the one before."""


def can_place(keyframe: Keyframe, min_confidence: float) -> bool:
    """Return whether a keyframe with a pose has enough confident points to be an anchor."""
    confident = _confident(keyframe.depth, keyframe.confidence, min_confidence)
    return int(confident.sum()) >= MIN_SHARED_POINTS


def place_after(anchor: Keyframe, pointmap: Pointmap, min_confidence: float) -> np.ndarray:
    """Return `fragment_from_sequence` [4, 4] of a sequence whose first image is the anchor's.

    The anchor has a pose in the fragment. `pointmap` is the pointmap of its image in the sequence.
    The camera is the same, so position and rotation are those of the anchor. The scale is the
    median ratio of the depths. Raises AlignmentError when there are too few points or too few
    ratios agree.
    """
    depth, known = pointmap.points[..., 2], anchor.depth
    shared = (_confident(depth, pointmap.confidence, min_confidence)
              & _confident(known, anchor.confidence, min_confidence))
    if shared.sum() < MIN_SHARED_POINTS:
        raise AlignmentError(f'fragment: expected {MIN_SHARED_POINTS} confident points shared '
                             f'with the last one, got {shared.sum()}')
    ratios = known[shared] / depth[shared]
    scale = float(np.median(ratios))
    agreeing = float((np.abs(np.log(ratios / scale)) < MAX_DISAGREEMENT).mean())
    if agreeing < MIN_AGREEING:
        raise AlignmentError(f'fragment: expected {MIN_AGREEING:.0%} of the points to agree on '
                             f'a scale, got {agreeing:.0%}')
    return place_with_scale(anchor, scale)


def place_with_scale(anchor: Keyframe, scale: float) -> np.ndarray:
    """Return `fragment_from_sequence` [4, 4] at the anchor's pose, with a scale."""
    return anchor.pose.fragment_from_camera @ np.diag([scale, scale, scale, 1.0])


def _confident(depth: np.ndarray, confidence: np.ndarray, least: float) -> np.ndarray:
    with np.errstate(invalid='ignore'):
        return (confidence >= least) & (depth > 0.0)
