# SPDX-License-Identifier: Apache-2.0
"""Evaluation on procedural rooms that were not trained on."""
