# SPDX-License-Identifier: Apache-2.0
"""Loops: constraints between fragments that saw the same place, and the pose graph."""
