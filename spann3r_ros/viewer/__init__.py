# SPDX-License-Identifier: Apache-2.0
"""A map in a browser: the report of a run."""
