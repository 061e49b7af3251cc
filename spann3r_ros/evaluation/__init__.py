# SPDX-License-Identifier: Apache-2.0
"""Measures of pointmaps, clouds and trajectories against ground truth."""
