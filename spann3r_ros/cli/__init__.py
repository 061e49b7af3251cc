# SPDX-License-Identifier: Apache-2.0
"""The command line: one small module for each command."""
