# SPDX-License-Identifier: Apache-2.0
"""The storage of rosbag2 recordings, whole or damaged."""
