# SPDX-License-Identifier: Apache-2.0
"""The way from messages to the mapper, without ROS: queues, worker, synchronisers, clocks."""
