# SPDX-License-Identifier: Apache-2.0
"""Evaluation on videos with true depth and true poses."""
