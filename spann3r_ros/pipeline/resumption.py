# SPDX-License-Identifier: Apache-2.0
"""Which images of a recording a map that was saved while it was replayed already has."""
from __future__ import annotations


class Resumption:
    """Leaves out the images up to the last one that the map has seen, at `newest_ns`.

    A recording that begins after that image is another one: all of its images are new. `is_over`
    once the next image is new.
    """

    def __init__(self, newest_ns: int) -> None:
        self._newest_ns = newest_ns
        self._has_begun = False
        self.is_over = False

    def leaves_out(self, stamp_ns: int) -> bool:
        """Return whether the map has an image; the images are to be passed in their order.

        Raises ValueError for the last image of the map after others that were taken for new ones,
        because the stamps of the recording go back.
        """
        if not self._has_begun:
            self._has_begun, self.is_over = True, stamp_ns > self._newest_ns
        elif self.is_over and stamp_ns == self._newest_ns:
            raise ValueError('resume: expected a recording whose stamps rise, got the image at '
                             f'{stamp_ns} ns, at which the map ends, after later ones')
        if self.is_over:
            return False
        self.is_over = stamp_ns == self._newest_ns
        return True

    def check_end(self) -> None:
        """Raise ValueError if the recording has ended before the first new image."""
        if not self.is_over:
            raise ValueError('resume: expected a recording with the image at '
                             f'{self._newest_ns} ns, at which the map ends, or one that begins '
                             'after it, got another')
