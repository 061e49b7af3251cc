# SPDX-License-Identifier: Apache-2.0
"""Recognition of images that show nothing; they must not reach the network's memory.

The network answers a black image with a confident pointmap, and remembers it: later images are
then placed elsewhere. Tracked corners and the filter of the path pass over skipped images: the
next image that shows something is compared with the last keyframe.
"""
from __future__ import annotations

import hashlib
import logging
from collections import deque
from typing import Any

import numpy as np

from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.mapper_config import SightConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .image_content import ImageContent, measure_content

MASKED = 'the mask leaves nothing of the image'
BLACK = 'the image is black'
OVEREXPOSED = 'the image is white or overexposed'
BLANK = 'the image has no detail'
BLURRED = 'the image is blurred'
FLAT = 'most of the image is of one colour'
REPEATED = 'the image is the same as the one before'

# A picture with a smaller usable share, or a larger share clipped at one end, shows nothing.
MIN_USABLE = 0.01
MAX_CLIPPED = 0.9
# Beyond this share of flat pixels an image is torn, or that of a device without a signal, unless
# half as much was flat before: a simulation may draw a sky of one colour.
MAX_FLAT, FLAT_GROWTH = 0.5, 2.0
# An image that is sharper than this is not blurred, however sharp those before it were.
SHARP = 0.8
# The sharpness is compared with the median of so many images, which are not older than so long: a
# camera that stays out of focus is used again after this time.
RECENT, LEAST_RECENT, RECENT_NS = 10, 3, 5 * 10**9
# A camera that stands still may repeat its image: that is reported only if it lasts.
REPORT_REPEATED_NS = 10**9

logger = logging.getLogger(__name__)


class Sight:
    """Decides which images show something; reports when the others begin and end."""

    def __init__(self, config: SightConfig) -> None:
        self._config = config
        self._used = ''  # a hash of the last image that was used
        # Stamp, sharpness and flat share of the last images that were used.
        self._recent: deque[tuple[int, float, float]] = deque(maxlen=RECENT)
        self._blind_in_a_row = 0
        self._since_ns = 0  # the stamp of the first of these
        self._reported = ''

    @property
    def reason(self) -> str:
        """Return what the newest images lack; an empty text if the newest one shows something."""
        return self._reported

    def is_blind(self, view: Preprocessed, stamp_ns: int, may_repeat: bool) -> bool:
        """Return whether an image shows nothing; the others are to be used.

        A network needs two images for its first pointmap: until then they may repeat.
        """
        if not self._config.check:
            self._blind_in_a_row, self._reported = 0, ''
            return False
        content = measure_content(view.image, view.usable)
        image = hashlib.sha256(np.ascontiguousarray(view.image)).hexdigest()
        reason = self._reason(content, stamp_ns, image == self._used and not may_repeat)
        self._report(reason, stamp_ns)
        if not reason:
            self._used = image
            self._recent.append((stamp_ns, content.sharpness, content.flat))
        return bool(reason)

    def configure(self, config: SightConfig) -> None:
        """Use other thresholds from the next image on."""
        self._config = config

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'used': self._used,
                'recent': [{'stamp_ns': stamp_ns, 'sharpness': sharpness, 'flat': flat}
                           for stamp_ns, sharpness, flat in self._recent]}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self._used = node.text('used')
        self._recent.extend(
            (one.integer('stamp_ns'), one.number('sharpness', 0.0), one.number('flat', 0.0))
            for one in node.nodes('recent'))

    def _reason(self, content: ImageContent, stamp_ns: int, repeats: bool) -> str:
        """Return why an image shows nothing, or an empty text."""
        if fault := fault_of(content, self._config):
            return fault
        recent = [values for other_ns, *values in self._recent
                  if abs(stamp_ns - other_ns) <= RECENT_NS]
        if len(recent) >= LEAST_RECENT:
            sharpness, flat = np.median(recent, axis=0)
            if is_blurred(content, sharpness, self._config):
                return BLURRED
            if content.flat > max(MAX_FLAT, FLAT_GROWTH * flat):
                return FLAT
        return REPEATED if repeats else ''

    def _report(self, reason: str, stamp_ns: int) -> None:
        if not reason:
            if self._reported:
                logger.info('the images show something again: %d were skipped',
                            self._blind_in_a_row)
            self._blind_in_a_row, self._reported = 0, ''
            return
        if not self._blind_in_a_row:
            self._since_ns = stamp_ns
        self._blind_in_a_row += 1
        if reason == REPEATED and abs(stamp_ns - self._since_ns) < REPORT_REPEATED_NS:
            return
        if not self._reported:
            logger.warning('%s: such images are skipped until the camera shows something', reason)
        self._reported = reason


def fault_of(content: ImageContent, config: SightConfig) -> str:
    """Return why an image shows nothing, whatever others show; or an empty text."""
    if content.usable < MIN_USABLE:
        return MASKED
    if content.dark > MAX_CLIPPED:
        return BLACK
    if content.bright > MAX_CLIPPED:
        return OVEREXPOSED
    return BLANK if content.detail < config.min_detail else ''


def is_blurred(content: ImageContent, typical: float, config: SightConfig) -> bool:
    """Return whether an image is blurred beside others, of which `typical` is the sharpness."""
    return content.sharpness < min(SHARP, config.min_sharpness * typical)
