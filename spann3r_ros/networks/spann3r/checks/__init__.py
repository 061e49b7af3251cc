# SPDX-License-Identifier: Apache-2.0
"""What the device check runs of this network: recorded numbers, layouts, a plain schedule."""
