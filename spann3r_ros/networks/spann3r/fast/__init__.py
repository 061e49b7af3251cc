# SPDX-License-Identifier: Apache-2.0
"""Fast inference with Spann3R: packed weights, bfloat16 and 8 bits, CUDA graphs."""
