# SPDX-License-Identifier: Apache-2.0
"""Maps and trajectories on disk."""
