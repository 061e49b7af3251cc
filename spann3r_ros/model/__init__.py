# SPDX-License-Identifier: Apache-2.0
"""Former home of the network, kept for one release: use `spann3r_ros.networks`."""
from __future__ import annotations

import importlib
import sys
import warnings

MOVED = {
    'backbone': 'spann3r.backbone', 'checkpoint': 'spann3r.checkpoint',
    'config': 'spann3r.config', 'graph': 'spann3r.fast.graph', 'heads': 'blocks.heads',
    'inference': 'spann3r.fast.inference', 'laid_out': 'spann3r.fast.packed_layers',
    'layers': 'blocks.layers', 'memory': 'spann3r.memory', 'offline': 'spann3r.offline',
    'precision': 'blocks.precision', 'rope': 'blocks.rope', 'spann3r': 'spann3r.spann3r',
    'static': 'spann3r.fast.static', 'streams': 'spann3r.streams',
}

warnings.warn('spann3r_ros.model is deprecated and will be removed: use spann3r_ros.networks',
              DeprecationWarning, stacklevel=2)
# The same module objects under both names: a class is one class, whatever its import was.
for old, new in MOVED.items():
    module = importlib.import_module(f'spann3r_ros.networks.{new}')
    sys.modules[f'{__name__}.{old}'] = module
    globals()[old] = module
