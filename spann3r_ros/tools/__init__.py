# SPDX-License-Identifier: Apache-2.0
"""Programs that run beside the node: bag player and demo."""
