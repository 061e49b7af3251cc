# SPDX-License-Identifier: Apache-2.0
"""What every other folder builds on: types, transforms, cameras, images, files, settings."""
