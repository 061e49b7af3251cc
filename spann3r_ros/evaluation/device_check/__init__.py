# SPDX-License-Identifier: Apache-2.0
"""The check of a device: each part in a process of its own, each result a row."""
