# SPDX-License-Identifier: Apache-2.0
"""Finding the camera's place in a map: after a load, and when the camera was lost."""
