# SPDX-License-Identifier: Apache-2.0
"""Synchronisers: they join an image with its calibration, mask and pose."""
