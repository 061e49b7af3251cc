# SPDX-License-Identifier: Apache-2.0
"""Buildings of several rooms and a corridor, and a robot's way through them."""
