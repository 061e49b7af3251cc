# SPDX-License-Identifier: Apache-2.0
"""Maps of photographs and videos: what they share, their order, and the run of a mapper."""
