# SPDX-License-Identifier: Apache-2.0
"""Recorded sequences with depth and poses, in the layouts researchers keep them."""
