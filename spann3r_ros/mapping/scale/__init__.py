# SPDX-License-Identifier: Apache-2.0
"""How long the unit of the map is."""
