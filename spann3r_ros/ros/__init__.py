# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node. Only this package and `tools` import rclpy."""
