# SPDX-License-Identifier: Apache-2.0
"""The files of other programs that a map is written to."""
