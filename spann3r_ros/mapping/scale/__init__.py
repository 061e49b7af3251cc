# SPDX-License-Identifier: Apache-2.0
"""Estimation of the length of a map unit in metres."""
