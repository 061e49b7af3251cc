# SPDX-License-Identifier: Apache-2.0
"""Transforms received from /tf and broadcast to it."""
