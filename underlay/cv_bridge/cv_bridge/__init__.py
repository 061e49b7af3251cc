# SPDX-License-Identifier: Apache-2.0
"""Stand-in for the part of cv_bridge used here, for machines that lack the genuine package."""
from .core import CvBridge, CvBridgeError

__all__ = ['CvBridge', 'CvBridgeError']
