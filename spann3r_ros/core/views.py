# SPDX-License-Identifier: Apache-2.0
"""Fitting of a camera image to the network's input, and the intrinsics of the result."""
from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import import_module

import cv2
import numpy as np
from PIL import Image

from .camera import Intrinsics
from .rectification import Rectifier
from .types import Frame, FrameError

logger = logging.getLogger(__name__)

# Least distance of the principal point from each border of the image, as a share of the side.
MIN_CENTRE_SHARE = 0.2


@dataclass(frozen=True)
class Preprocessed:
    """A network input: `image` uint8 [h, w, 3] and its intrinsics; None without calibration.

    `usable`, bool [h, w], is true for the pixels that may enter the map; None: all. `coverage` is
    the share of the camera's image that the input shows, `window` the part of it.
    """

    image: np.ndarray
    intrinsics: Intrinsics | None
    usable: np.ndarray | None = None
    coverage: float = 1.0
    window: Window | None = None


class CameraModel:
    """Fits images of one calibration to the input of one network.

    Rectification, window and valid pixels are computed once. The window is symmetric about the
    principal point, or about the middle of the image without intrinsics. With `letterbox` the
    whole image is fitted between black bars instead. If `exact` is false, the resize is several
    times as fast, and a few values differ by one or two. Raises FrameError for intrinsics that
    cannot be used.
    """

    def __init__(self, image_size: tuple[int, int], intrinsics: Intrinsics | None,
                 input_size: tuple[int, int], letterbox: bool, exact: bool) -> None:
        if intrinsics is not None:
            _check_intrinsics(intrinsics, image_size)
        self._size = input_size
        self._rectify = None
        if intrinsics is not None and intrinsics.distortion is not None:
            self._rectify = Rectifier(intrinsics)
            intrinsics = self._rectify.intrinsics
        self._window = window_of(image_size, intrinsics, input_size, letterbox)
        self._resize = _resize_exactly if exact else _resize_fast
        self._intrinsics = (None if intrinsics is None
                            else self._window.follow(intrinsics, input_size))
        self._coverage = self._window.coverage(image_size, input_size)
        self._valid = None
        if self._rectify is not None:
            self._valid = self._shrink(self._rectify.seen)
        elif letterbox:
            self._valid = self._window.place(np.ones(self._window.resized, bool), input_size)
        if self._valid is not None:
            self._valid.setflags(write=False)  # all views share it
        # The newest read-only mask and what it leaves: one mask often serves many images.
        self._masked: tuple[np.ndarray | None, np.ndarray | None] = None, None

    def fit(self, rgb: np.ndarray, mask: np.ndarray | None = None) -> Preprocessed:
        """Return the network's input for an image [h, w, 3] and a mask bool [h, w]."""
        window = self._window
        usable = self._valid if mask is None else self._under(mask)
        if self._rectify is not None:
            rgb = self._rectify(rgb)
        image = window.place(self._resize(rgb[window.rows, window.columns], window.resized),
                             self._size)
        return Preprocessed(image, self._intrinsics, usable, self._coverage, window)

    def fit_depth(self, depth: np.ndarray) -> np.ndarray:
        """Return the depth [h, w] of the image in the network's input; 0 outside the image."""
        if self._rectify is not None:
            depth = self._rectify.move_values(depth)
        return self._window.sample(depth, self._size)

    def _under(self, mask: np.ndarray) -> np.ndarray:
        """Return the usable pixels of the network's input under a mask of the image."""
        masked, usable = self._masked
        if mask is masked:
            return usable
        usable = self._shrink(mask if self._rectify is None
                              else self._rectify.seen & self._rectify.move(mask))
        if not mask.flags.writeable:
            usable.setflags(write=False)
            self._masked = mask, usable
        return usable

    def _shrink(self, mask: np.ndarray) -> np.ndarray:
        """Return the pixels of the network's input that a mask covers completely."""
        window = self._window
        part = Image.fromarray(mask[window.rows, window.columns].astype(np.uint8) * 255)
        part = np.asarray(part.resize(window.resized[::-1], Image.Resampling.BOX))
        return window.place(part, self._size) == 255  # false for a pixel covered only in part


@lru_cache(maxsize=8)
def camera_model(image_size: tuple[int, int], intrinsics: Intrinsics | None,
                 input_size: tuple[int, int], letterbox: bool, exact: bool) -> CameraModel:
    """Return the camera model of a calibration; it is cached."""
    return CameraModel(image_size, intrinsics, input_size, letterbox, exact)


def prepare_resize(exact: bool) -> None:
    """Import what the resize of a `CameraModel` needs.

    Call it before threads start. While one thread imports torch, scipy fails in the others.
    """
    if not exact:
        import_module('torch')


def preprocess(frame: Frame, size: tuple[int, int], letterbox: bool = False,
               exact: bool = True) -> Preprocessed:
    """Return a frame's image, rectified and fitted to `size` (height, width) as in the training.

    `CameraModel` describes how. Raises FrameError for an image, mask or intrinsics that cannot be
    used.
    """
    _check_image(frame.rgb)
    if frame.mask is not None:
        _check_mask(frame.mask, frame.rgb)
    model = camera_model(frame.rgb.shape[:2], frame.intrinsics, size, letterbox, exact)
    return model.fit(frame.rgb, frame.mask)


def fit_depth(frame: Frame, size: tuple[int, int], letterbox: bool = False,
              exact: bool = True) -> np.ndarray:
    """Return a frame's given depth, float32 [h, w], fitted as `preprocess` fits its image.

    It is 0 or NaN where it is not known.
    """
    model = camera_model(frame.rgb.shape[:2], frame.intrinsics, size, letterbox, exact)
    return model.fit_depth(frame.depth)


def _resize_exactly(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(rgb))
    # A copy: PIL's own memory is read-only, which torch warns about.
    return np.array(image.resize(size[::-1], Image.Resampling.LANCZOS))


def _resize_fast(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if not _torch_has_lanczos():
        return _resize_exactly(rgb, size)
    import torch  # imported here because it takes seconds, and `_resize_exactly` does not need it

    # torch does not accept negative strides, and it warns about read-only memory.
    image = torch.from_numpy(np.require(rgb, requirements='CW')).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(image, size, mode='lanczos', antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


@cache
def _torch_has_lanczos() -> bool:
    """Return whether torch has this filter: version 2.13 has it, 2.11 not."""
    import torch
    try:
        torch.nn.functional.interpolate(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), (2, 2),
                                        mode='lanczos', antialias=True)
    except (ValueError, NotImplementedError):
        logger.warning('torch %s has no Lanczos filter; images are resized by Pillow, which takes '
                       'longer', torch.__version__)
        return False
    return True


@dataclass(frozen=True)
class Window:
    """Part of an image, the size (height, width) it is resized to, and its position in the result.

    `corner` (y, x) is the pixel of the resized part that becomes pixel (0, 0) of the result.
    Negative values leave a black bar.
    """

    rows: slice
    columns: slice
    resized: tuple[int, int]
    corner: tuple[int, int]

    def place(self, resized: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the result, of `size` (height, width), for a resized part; zeros in the bars."""
        (y, x), (height, width) = self.corner, size
        inside = resized[max(y, 0):y + height, max(x, 0):x + width]
        top, left = max(-y, 0), max(-x, 0)
        if inside.shape[:2] == size:
            return np.ascontiguousarray(inside)
        placed = np.zeros((*size, *resized.shape[2:]), resized.dtype)
        placed[top:top + inside.shape[0], left:left + inside.shape[1]] = inside
        return placed

    def sample(self, whole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the result for an image whose values must not be mixed, such as depth."""
        part = np.ascontiguousarray(whole[self.rows, self.columns])
        # INTER_NEAREST would take the pixel at the upper left, up to half a pixel away.
        return self.place(cv2.resize(part, self.resized[::-1],
                                     interpolation=cv2.INTER_NEAREST_EXACT), size)

    def follow(self, intrinsics: Intrinsics, size: tuple[int, int]) -> Intrinsics:
        """Return the intrinsics of the result."""
        # The outer edge of pixel 0 is at -0.5, before and after resizing.
        (y, x), (top, left) = self.factors, (self.rows.start, self.columns.start)
        return replace(
            intrinsics, fx=intrinsics.fx * x, fy=intrinsics.fy * y,
            cx=(intrinsics.cx - left + 0.5) * x - 0.5 - self.corner[1],
            cy=(intrinsics.cy - top + 0.5) * y - 0.5 - self.corner[0],
            width=size[1], height=size[0])

    def undo(self, intrinsics: Intrinsics, size: tuple[int, int]) -> Intrinsics:
        """Return the intrinsics of the whole image, of `size` (height, width), for the result's.

        It is the inverse of `follow`.
        """
        (y, x), (top, left) = self.factors, (self.rows.start, self.columns.start)
        return replace(
            intrinsics, fx=intrinsics.fx / x, fy=intrinsics.fy / y,
            cx=(intrinsics.cx + self.corner[1] + 0.5) / x - 0.5 + left,
            cy=(intrinsics.cy + self.corner[0] + 0.5) / y - 0.5 + top,
            width=size[1], height=size[0])

    @property
    def factors(self) -> tuple[float, float]:
        """Return the scale factors (y, x) of the resize."""
        return (self.resized[0] / (self.rows.stop - self.rows.start),
                self.resized[1] / (self.columns.stop - self.columns.start))

    def coverage(self, whole: tuple[int, int], size: tuple[int, int]) -> float:
        """Return the share of an image of size `whole` that the result shows."""
        shown = [min(size[axis], self.resized[axis]) / self.factors[axis] for axis in (0, 1)]
        return shown[0] * shown[1] / (whole[0] * whole[1])


def window_of(image_size: tuple[int, int], intrinsics: Intrinsics | None,
              input_size: tuple[int, int], letterbox: bool) -> Window:
    """Return the part of an image of a size (height, width) that a network's input shows.

    `intrinsics` are those of the image, without distortion; None: not known.
    """
    return (_letterbox if letterbox else _crop)(image_size, intrinsics, input_size)


def _crop(whole: tuple[int, int], intrinsics: Intrinsics | None,
          size: tuple[int, int]) -> Window:
    """Return the window that fills the result."""
    height, width = whole
    centre = (height // 2, width // 2)
    if intrinsics is not None:
        centre = (round(intrinsics.cy), round(intrinsics.cx))
    rows = _window('height', height, centre[0])
    columns = _window('width', width, centre[1])
    length = (rows.stop - rows.start, columns.stop - columns.start)
    # Without the term 1e-8, rounding could make the side that determines the scale a pixel short.
    scale = max(size[0] / length[0], size[1] / length[1]) + 1e-8
    resized = (math.floor(length[0] * scale), math.floor(length[1] * scale))
    # The network's training rounds half to even, as Python does.
    corner = (round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2))
    return Window(rows, columns, resized, corner)


def _letterbox(whole: tuple[int, int], _: Intrinsics | None, size: tuple[int, int]) -> Window:
    """Return the window that shows the whole image in the result."""
    scale = min(size[0] / whole[0], size[1] / whole[1])
    resized = (max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale)))
    corner = (-((size[0] - resized[0]) // 2), -((size[1] - resized[1]) // 2))
    return Window(slice(0, whole[0]), slice(0, whole[1]), resized, corner)


def _window(side: str, length: int, centre: int) -> slice:
    """Return the largest window along one side that is symmetric about `centre`."""
    reach = min(centre, length - centre)
    if reach <= length * MIN_CENTRE_SHARE:
        raise FrameError(f'image {side}: expected the principal point in the middle 60 % of '
                         f'{length} pixels, got {centre}')
    return slice(centre - reach, centre + reach)


def _check_image(rgb: np.ndarray) -> None:
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 \
            or rgb.shape[2] != 3 or min(rgb.shape[:2]) < 2:
        got = f'{rgb.dtype} {rgb.shape}' if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise FrameError(f'rgb: expected uint8 [height, width, 3], sides of 2 or more, got {got}')


def _check_mask(mask: np.ndarray, rgb: np.ndarray) -> None:
    if mask.dtype != bool or mask.shape != rgb.shape[:2]:
        raise FrameError(f'mask: expected bool {rgb.shape[:2]}, got {mask.dtype} {mask.shape}')


def _check_intrinsics(intrinsics: Intrinsics, image_size: tuple[int, int]) -> None:
    height, width = image_size
    if (intrinsics.height, intrinsics.width) != (height, width):
        raise FrameError(f'intrinsics: expected those of a {width}x{height} image, '
                         f'got {intrinsics.width}x{intrinsics.height}')
    numbers = (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy)
    if not np.isfinite(numbers).all() or min(intrinsics.fx, intrinsics.fy) <= 0.0:
        raise FrameError(f'intrinsics: expected finite values and positive focal lengths, '
                         f'got {intrinsics}')
