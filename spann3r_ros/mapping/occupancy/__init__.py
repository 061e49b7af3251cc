# SPDX-License-Identifier: Apache-2.0
"""Occupancy evidence and the grid for navigation."""
