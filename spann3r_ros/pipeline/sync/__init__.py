# SPDX-License-Identifier: Apache-2.0
"""What joins an image with its calibration, mask and pose."""
