# SPDX-License-Identifier: Apache-2.0
"""Maps of photographs and videos: what they have in common, their order, and the run of a mapper.
"""
