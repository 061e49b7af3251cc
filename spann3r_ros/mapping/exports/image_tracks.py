# SPDX-License-Identifier: Apache-2.0
"""Points that several keyframes see: where the map predicts them, and where the images show them.

A corner of a keyframe has a depth, hence a place in the map. There other keyframes should see it,
unless their depth says that something is in front of it. The corner is searched near that pixel
in the image itself, by Lucas-Kanade. So an observation comes from the image, and its distance
from the projected point measures how well poses and depths agree with the images.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from spann3r_ros.core.transforms import invert, transform_points

from .map_content import Progress, SavedView, silent

MAX_CORNERS, CORNER_QUALITY, CORNER_DISTANCE = 400, 0.01, 5
# Each keyframe's corners are looked for in so many others, those that see most of its points.
MAX_PARTNERS, LEAST_SHARED = 8, 0.25
# Of so many, those whose image has most of the points in it, the depth is compared.
MAX_CANDIDATES = 32
# Points in each direction by which it is found what two keyframes share.
SHARED_GRID = 12
# Two depths of one point differ by this share at most.
SAME_DEPTH = 0.08
# Window of the search in pixels of the network's image, and the largest distance, back in the
# first image, between the corner and what is found.
WINDOW, MAX_RETURN = 15, 0.5
# Largest distance of an observation from the projected point, in pixels of the camera's image.
# COLMAP's own filter has this value too.
MAX_REPROJECTION = 4.0


@dataclass(frozen=True)
class Tracks:
    """Points of the map that two or more views see.

    `points` float64 [n, 3], `colors` uint8 [n, 3], and `errors` [n], the mean distance of a
    point's observations from its projections in pixels of the camera's image. An observation is
    of the point `point_of` [m], in the view `view_of` [m], at `pixels` [m, 2] of the camera's
    image; pixel centres lie at integer coordinates. `found` is the number of observations before
    those with a large error were left out, `mean_found` their mean error.
    """

    points: np.ndarray
    colors: np.ndarray
    errors: np.ndarray
    point_of: np.ndarray
    view_of: np.ndarray
    pixels: np.ndarray
    found: int
    mean_found: float

    @property
    def mean_error(self) -> float:
        """Return the mean error of the observations in pixels; NaN without any."""
        lengths = np.bincount(self.point_of, minlength=len(self.points))
        return float(np.average(self.errors, weights=lengths)) if len(lengths) else np.nan


@dataclass(frozen=True)
class _Seen:
    """Observations: of points by number, in a view, at pixels [m, 2] of the network's image.

    `places` [m, 3] are where the view's own depth puts them in the map.
    """

    point_of: np.ndarray
    view_of: np.ndarray
    pixels: np.ndarray
    places: np.ndarray

    def take(self, which: np.ndarray) -> _Seen:
        """Return some of the observations."""
        return _Seen(*(getattr(self, item.name)[which] for item in fields(self)))


class _Picture:
    """A view as the search needs it: gray image, inverse depth with NaN, and the camera."""

    def __init__(self, view: SavedView) -> None:
        self.view, self.camera = view, view.kept.intrinsics
        self.rgb = view.kept.rgb()
        self.gray = cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY)
        depth = view.depth()
        with np.errstate(divide='ignore'):
            self.inverse_depth = np.where(depth > 0.0, 1.0 / depth, np.float32(np.nan))
        self.camera_from_map = invert(view.map_from_camera)
        self.free = np.full(self.gray.shape, 255, np.uint8)

    def corners(self) -> np.ndarray:
        """Return the corners [n, 2] on one surface, and away from those of tracks so far."""
        known = np.nan_to_num(self.inverse_depth)  # 0 where it is not known
        around = np.ones((3, 3), np.uint8)
        usable = cv2.erode(known, around) > (1.0 - SAME_DEPTH) * cv2.dilate(known, around)
        found = cv2.goodFeaturesToTrack(self.gray, MAX_CORNERS, CORNER_QUALITY, CORNER_DISTANCE,
                                        mask=np.where(usable, self.free, 0).astype(np.uint8))
        return np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)

    def occupy(self, pixels: np.ndarray) -> None:
        """Keep new corners away from pixels [n, 2]."""
        for x, y in np.rint(pixels).astype(int).tolist():
            cv2.circle(self.free, (x, y), CORNER_DISTANCE, 0, -1)

    def depth_at(self, pixels: np.ndarray) -> np.ndarray:
        """Return the depth [n] at pixels [n, 2], NaN where a neighbour has none.

        On a plane the inverse depth is linear in the image.
        """
        if not len(pixels):
            return np.zeros(0)
        x, y = pixels.astype(np.float32).T
        found = cv2.remap(self.inverse_depth, x[:, None], y[:, None], cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=float('nan'))
        return 1.0 / found[:, 0].astype(float)

    def places(self, pixels: np.ndarray) -> np.ndarray:
        """Return the places [n, 3] in the map of pixels [n, 2]."""
        rays = np.ones((len(pixels), 3))
        rays[:, :2] = ((pixels - (self.camera.cx, self.camera.cy))
                       / (self.camera.fx, self.camera.fy))
        return transform_points(self.view.map_from_camera,
                                rays * self.depth_at(pixels)[:, None])

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels [n, 2] and depth [n] of points of the map; NaN behind the camera."""
        seen = transform_points(self.camera_from_map, points)
        depth = np.where(seen[:, 2] > 1e-9, seen[:, 2], np.nan)
        return (seen[:, :2] / depth[:, None] * (self.camera.fx, self.camera.fy)
                + (self.camera.cx, self.camera.cy)), depth

    def shows(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels [n, 2] of points of the map, and which are seen at their depth."""
        pixels, depth = self.project(points)
        inside = ((pixels >= 0.0) & (pixels <= (self.camera.width - 1,
                                                self.camera.height - 1))).all(axis=1)
        own = np.full(len(points), np.nan)
        own[inside] = self.depth_at(pixels[inside])
        with np.errstate(invalid='ignore'):
            return pixels, np.abs(own - depth) <= SAME_DEPTH * depth


def find_tracks(views: Sequence[SavedView], progress: Progress = silent) -> Tracks:
    """Return the tracks of views; the same views give the same tracks."""
    pictures = [_Picture(view) for view in views]
    seen, colors, count = [], [], 0
    for index in progress(range(len(views)), 'tracks'):
        picture = pictures[index]
        corners = picture.corners()
        places = picture.places(corners)
        corners, places = (one[np.isfinite(places).all(axis=1)] for one in (corners, places))
        others = [found for other in _partners(pictures, index)
                  if len((found := _search(pictures, index, other, corners, places)).view_of)]
        tracked = np.zeros(len(corners), bool)
        for one in others:
            tracked[one.point_of] = True
        if not tracked.any():
            continue
        number = count + np.cumsum(tracked) - 1
        own = np.flatnonzero(tracked)
        first = _Seen(own, np.full(len(own), index), corners[own].astype(float), places[own])
        for one in (first, *others):
            pictures[one.view_of[0]].occupy(one.pixels)
            seen.append(_Seen(number[one.point_of], one.view_of, one.pixels, one.places))
        x, y = np.rint(corners[own]).astype(int).T
        colors.append(picture.rgb[y, x])
        count += len(own)
    return _tracks(views, pictures, seen, colors)


def _partners(pictures: Sequence[_Picture], index: int) -> list[int]:
    """Return the views that see most of the points of one, but not too few."""
    picture = pictures[index]
    x, y = (np.linspace(0, size - 1, SHARED_GRID).round()
            for size in (picture.camera.width, picture.camera.height))
    points = picture.places(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return []
    inside = _shares_inside(pictures, points)
    inside[index] = 0.0
    near = np.argsort(-inside, kind='stable')[:MAX_CANDIDATES]
    near = near[inside[near] >= LEAST_SHARED]
    shares = np.array([pictures[other].shows(points)[1].mean() for other in near])
    best = np.argsort(-shares, kind='stable')[:MAX_PARTNERS]
    return sorted(near[best[shares[best] >= LEAST_SHARED]].tolist())


def _shares_inside(pictures: Sequence[_Picture], points: np.ndarray) -> np.ndarray:
    """Return which share of points [n, 3] lies in the image of each view, hidden or not [k]."""
    poses = np.stack([one.camera_from_map for one in pictures])
    x, y, z = np.moveaxis(points @ poses[:, :3, :3].transpose(0, 2, 1)
                          + poses[:, None, :3, 3], -1, 0)  # each [k, n]
    fx, fy, cx, cy, width, height = (
        np.array([getattr(one.camera, name) for one in pictures])[:, None]
        for name in ('fx', 'fy', 'cx', 'cy', 'width', 'height'))
    with np.errstate(divide='ignore', invalid='ignore'):
        column, row = x / z * fx + cx, y / z * fy + cy
        inside = (z > 0.0) & (column >= 0.0) & (column < width) & (row >= 0.0) & (row < height)
    return inside.mean(axis=1)


def _search(pictures: Sequence[_Picture], index: int, other: int, corners: np.ndarray,
            places: np.ndarray) -> _Seen:
    """Return where a view shows the corners [n, 2] of another, which are at `places` [n, 3]."""
    first, second = pictures[index], pictures[other]
    predicted, visible = second.shows(places)
    rows = np.flatnonzero(visible)
    found = np.zeros((0, 2))
    if len(rows):
        start, guess = corners[rows].astype(np.float32), predicted[rows].astype(np.float32)
        ends, good = _flow(first.gray, second.gray, start, guess)
        back, returned = _flow(second.gray, first.gray, ends, start)
        kept = good & returned & (np.linalg.norm(back - start, axis=1) <= MAX_RETURN)
        rows, found = rows[kept], ends[kept].astype(float)
    own = second.places(found)
    known = np.isfinite(own).all(axis=1)
    return _Seen(rows[known], np.full(int(known.sum()), other), found[known], own[known])


def _flow(first: np.ndarray, second: np.ndarray, start: np.ndarray,
          guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ends, status, _ = cv2.calcOpticalFlowPyrLK(
        first, second, start[:, None], guess[:, None].copy(), winSize=(WINDOW, WINDOW),
        maxLevel=1, flags=cv2.OPTFLOW_USE_INITIAL_FLOW)
    return ends[:, 0], status[:, 0].astype(bool)


def _tracks(views: Sequence[SavedView], pictures: Sequence[_Picture], parts: Sequence[_Seen],
            colors: Sequence[np.ndarray]) -> Tracks:
    """Return the tracks of observations, without those that are far from the projections."""
    seen = _Seen(*(np.concatenate([getattr(one, item.name) for one in parts] or [empty])
                   for item, empty in zip(fields(_Seen), (
                       np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)), np.zeros((0, 3))),
                       strict=True)))
    errors = _errors(views, pictures, seen)
    found, mean_found = len(errors), float(errors.mean()) if len(errors) else np.nan
    seen = _in_two_views(seen.take(errors <= MAX_REPROJECTION))
    # Without the observations left out, the points move; those that are far now go too.
    seen = _in_two_views(seen.take(_errors(views, pictures, seen) <= MAX_REPROJECTION))
    numbers, seen_of = np.unique(seen.point_of, return_inverse=True)
    errors, lengths = _errors(views, pictures, seen), np.bincount(seen_of, minlength=len(numbers))
    pixels = np.empty((len(seen.pixels), 2))
    for index, (view, picture) in enumerate(zip(views, pictures, strict=True)):
        mine, whole, part = seen.view_of == index, view.intrinsics, picture.camera
        pixels[mine] = ((seen.pixels[mine] - (part.cx, part.cy)) / (part.fx, part.fy)
                        * (whole.fx, whole.fy) + (whole.cx, whole.cy))
    return Tracks(_means(seen, len(numbers), seen_of),
                  np.concatenate([*colors, np.zeros((0, 3), np.uint8)])[numbers],
                  np.bincount(seen_of, errors, len(numbers)) / np.maximum(lengths, 1),
                  seen_of, seen.view_of, pixels, found, mean_found)


def _in_two_views(seen: _Seen) -> _Seen:
    """Return the observations of points that two or more views see."""
    return seen.take(np.bincount(seen.point_of)[seen.point_of] > 1) if len(seen.view_of) else seen


def _means(seen: _Seen, count: int, point_of: np.ndarray) -> np.ndarray:
    """Return the mean place [n, 3] of each point's observations."""
    lengths = np.maximum(np.bincount(point_of, minlength=count), 1)
    return np.stack([np.bincount(point_of, seen.places[:, axis], count) / lengths
                     for axis in range(3)], axis=1)


def _errors(views: Sequence[SavedView], pictures: Sequence[_Picture],
            seen: _Seen) -> np.ndarray:
    """Return how far observations [m] are from the projected points, in camera pixels."""
    count = int(seen.point_of.max(initial=-1)) + 1
    points, errors = _means(seen, count, seen.point_of), np.empty(len(seen.view_of))
    for index, (view, picture) in enumerate(zip(views, pictures, strict=True)):
        mine = seen.view_of == index
        pixels, _ = picture.project(points[seen.point_of[mine]])
        enlarged = ((pixels - seen.pixels[mine]) / (picture.camera.fx, picture.camera.fy)
                    * (view.intrinsics.fx, view.intrinsics.fy))
        errors[mine] = np.linalg.norm(enlarged, axis=1)
    return np.where(np.isfinite(errors), errors, np.inf)
