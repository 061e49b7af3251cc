# SPDX-License-Identifier: Apache-2.0
"""Streaming networks and the registry that opens them; numpy at the border, torch inside."""
