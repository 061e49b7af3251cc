# SPDX-License-Identifier: Apache-2.0
"""Furnished places: rooms with photographs as textures and meshes of real furniture."""
