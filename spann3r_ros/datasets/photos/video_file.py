# SPDX-License-Identifier: Apache-2.0
"""Videos as stamped images.

OpenCV reads them: it is a dependency already, its packages contain FFmpeg with the decoders of
telephones (H.264, H.265, VP9, AV1), and it turns frames upright. PyAV would add a second FFmpeg.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

SECOND_NS = 10**9
# Frame rates that are credible; some containers have none, or that of their clock.
LEAST_RATE, GREATEST_RATE = 0.1, 1000.0
ASSUMED_RATE = 30.0


class VideoFile:
    """A video; iteration yields (stamp in ns from its beginning, uint8 RGB [h, w, 3]).

    With `fps` above 0 it yields at most so many images a second. Raises ValueError for a file
    that is not read.
    """

    def __init__(self, path: Path, fps: float = 0.0) -> None:
        if not 0.0 <= fps < np.inf:
            raise ValueError(f'fps: expected 0 (all) or more, got {fps}')
        self._path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            size = path.stat().st_size if path.exists() else 0
            raise ValueError(f'input: expected a video that OpenCV {cv2.__version__} reads, got '
                             f'{path} with {size} bytes')
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if LEAST_RATE <= rate <= GREATEST_RATE else ASSUMED_RATE
        # What the container says; it may be wrong, and 0 if it says nothing.
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._least_ns = SECOND_NS / fps if fps else 0.0
        self.decoded = 0

    @property
    def is_cut(self) -> bool:
        """Return whether clearly fewer frames were decoded than the container says."""
        return self.decoded < 0.95 * self.frames - 2

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the images that are due, with their stamps, which increase."""
        last_ns, due_ns = -1, 0.0
        while self._capture.grab():
            stamp_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            # Without times in the container each frame has the same one.
            if stamp_ns <= last_ns:
                stamp_ns = last_ns + round(SECOND_NS / self.rate)
            last_ns, self.decoded = stamp_ns, self.decoded + 1
            if stamp_ns < due_ns - 0.5 * SECOND_NS / self.rate:
                continue
            read, bgr = self._capture.retrieve()
            if not read:
                continue
            # After a gap in the stamps the next image is due half an interval later.
            due_ns = max(due_ns + self._least_ns, stamp_ns + 0.5 * self._least_ns)
            yield stamp_ns, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
