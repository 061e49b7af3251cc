# SPDX-License-Identifier: Apache-2.0
"""Procedural rooms: a data set that is rendered on demand."""
