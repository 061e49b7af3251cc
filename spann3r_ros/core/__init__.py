# SPDX-License-Identifier: Apache-2.0
"""The base of all other folders: types, transforms, cameras, images, files, settings."""
