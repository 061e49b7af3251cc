# SPDX-License-Identifier: Apache-2.0
"""Sources of training sequences: procedural rooms, places, recordings, and their mixture."""
