# SPDX-License-Identifier: Apache-2.0
"""The only import of cv_bridge, whose compiled part must fit the version of numpy."""
from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np

# A library that is built against numpy 2 contains this name; one built against numpy 1 does not.
NUMPY_2_CORE = b'numpy._core'
# Error texts of an import that fails because of a build for numpy 1.
MISFITS = ('_ARRAY_API not found', 'numpy.core.multiarray failed to import',
           'compiled using NumPy 1', 'cv_bridge_boost raised unreported exception')
REMEDY = ('cv_bridge: expected one that is built for numpy {version}, got one for numpy 1 '
          '({place}). In the virtual environment, made with --system-site-packages, run: '
          "pip install 'numpy<2'")


def load_cv_bridge() -> ModuleType:
    """Return the module cv_bridge.

    Raises ImportError with the remedy if it was built for numpy 1 and numpy 2 is installed. Such a
    build often imports without an error and then crashes the process at the first conversion.
    """
    spec = importlib.util.find_spec('cv_bridge')
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for library in Path(folder).glob('boost/cv_bridge_boost*.so'):
            if _numpy_major() >= 2 and NUMPY_2_CORE not in library.read_bytes():
                raise ImportError(REMEDY.format(place=library, version=np.__version__))
    try:
        return importlib.import_module('cv_bridge')
    except (ImportError, AttributeError, SystemError) as error:
        if not any(misfit in str(error) for misfit in MISFITS):
            raise
        raise ImportError(REMEDY.format(place=error, version=np.__version__)) from error


def _numpy_major() -> int:
    return int(np.__version__.partition('.')[0])
