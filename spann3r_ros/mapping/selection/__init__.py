# SPDX-License-Identifier: Apache-2.0
"""Estimation of the camera's pose."""
