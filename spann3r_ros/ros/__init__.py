# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node; with `tools` the only importers of rclpy."""
