# SPDX-License-Identifier: Apache-2.0
"""Photographs and videos as they come from a camera or a telephone."""
