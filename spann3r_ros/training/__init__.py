# SPDX-License-Identifier: Apache-2.0
"""Training of the bundled model on procedurally generated rooms."""
