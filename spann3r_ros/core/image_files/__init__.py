# SPDX-License-Identifier: Apache-2.0
"""Image files in memory, as sensor_msgs/CompressedImage contains them."""
