# SPDX-License-Identifier: Apache-2.0
"""Photographs and furniture meshes of Debian packages, packed into one file."""
