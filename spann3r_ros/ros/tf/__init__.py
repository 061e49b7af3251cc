# SPDX-License-Identifier: Apache-2.0
"""Transforms from and to /tf."""
