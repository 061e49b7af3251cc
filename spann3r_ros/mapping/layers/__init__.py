# SPDX-License-Identifier: Apache-2.0
"""What keyframes become for others."""
