# SPDX-License-Identifier: Apache-2.0
"""Unseen procedural rooms."""
