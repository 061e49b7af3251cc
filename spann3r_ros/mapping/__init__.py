# SPDX-License-Identifier: Apache-2.0
"""From frames to a map: numpy and torch, no ROS."""
