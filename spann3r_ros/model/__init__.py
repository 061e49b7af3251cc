# SPDX-License-Identifier: Apache-2.0
"""The network and its spatial memory; needs torch only."""
