# SPDX-License-Identifier: Apache-2.0
"""Everything between a message and a mapper, without ROS: queues, worker, synchronisers, clock."""
