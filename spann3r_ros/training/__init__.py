# SPDX-License-Identifier: Apache-2.0
"""Training of networks on procedurally generated rooms and on recordings."""
