# SPDX-License-Identifier: Apache-2.0
"""Spann3R (Wang and Agapito, 2024)."""
