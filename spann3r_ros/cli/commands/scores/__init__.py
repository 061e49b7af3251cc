# SPDX-License-Identifier: Apache-2.0
"""Commands that score checkpoints, runs and devices."""
