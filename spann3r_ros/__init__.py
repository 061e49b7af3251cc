# SPDX-License-Identifier: Apache-2.0
"""Dense 3D maps from one moving camera: Spann3R with spatial memory as a ROS 2 node."""
from pathlib import Path
from pkgutil import extend_path

# Run from the source tree, this package also finds the generated messages of an installed one.
__path__ = extend_path(__path__, __name__)
__version__ = '0.1.0'


def share_directory() -> Path:
    """Return the folder that holds `config`, `launch`, `models` and `rviz`.

    It is the source tree when run from there, else `share/spann3r_ros` of the prefix (colcon's or
    pip's) this package is installed in. FileNotFoundError when the installation has none.
    """
    package = Path(__file__).parent
    if (package.parent / 'package.xml').is_file():
        return package.parent
    for prefix in package.parents:
        if (prefix / 'share' / __name__).is_dir():
            return prefix / 'share' / __name__
    raise FileNotFoundError(f'no share/{__name__} above {package}: is the installation complete?')
