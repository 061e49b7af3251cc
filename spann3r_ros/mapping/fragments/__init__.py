# SPDX-License-Identifier: Apache-2.0
"""Keyframes that share one network memory."""
