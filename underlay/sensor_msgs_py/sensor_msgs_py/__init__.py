# SPDX-License-Identifier: Apache-2.0
"""Stand-in for the part of sensor_msgs_py used here: `point_cloud2`."""
