# SPDX-License-Identifier: Apache-2.0
"""Spann3R laid out for inference: packed weights, narrow numbers, CUDA graphs."""
