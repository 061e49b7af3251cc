# SPDX-License-Identifier: Apache-2.0
"""Programs beside the node: bag player and demo."""
