# SPDX-License-Identifier: Apache-2.0
"""Record what the genuine sensor_msgs_py, cv_bridge and tf_transformations do with the cases.

Run by hand, where the genuine packages are the ones that Python imports, with numpy 1.26 and
OpenCV 4.6 as Ubuntu 24.04 has them (cv_bridge of ROS 2 Jazzy does not work on numpy 2):

    python3 test/underlay/record_genuine.py

The recordings here are of sensor_msgs_py's branch jazzy (5.3.5), of vision_opencv's branch
rolling of 2024-02-17, from which Jazzy's branched, with its Boost module compiled, and of
tf_transformations 1.1.1 on transforms3d 0.4.1; Python 3.11, numpy 1.26.4. OpenCV was 4.6.0 both
in Python and below the Boost module. Each recording holds these versions as far as Python knows.
"""
import importlib
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from image_cases import JPEGS, pixels  # noqa: E402
from recordings import FOLDER, outcome, write_recording  # noqa: E402
from test_recorded import CASES  # noqa: E402


def store_jpegs() -> None:
    """Write the files that an encoder makes, once: others would make other ones."""
    for name, encoding in zip(JPEGS, ('rgb8', 'mono8'), strict=True):
        if not (FOLDER / name).exists():
            smooth = cv2.resize(pixels(encoding, 2, 2), (16, 16), interpolation=cv2.INTER_LINEAR)
            cv2.imwrite(str(FOLDER / name), smooth)


def refuse_stand_ins() -> None:
    """Exit where a package is the stand-in of underlay/."""
    for package in CASES:
        description = importlib.import_module(package).__doc__ or ''
        if 'stand-in' in description.lower():
            sys.exit(f'{package}: expected the genuine package, got the stand-in of underlay/')


if __name__ == '__main__':
    refuse_stand_ins()
    FOLDER.mkdir(exist_ok=True)
    store_jpegs()
    origin = {'python': platform.python_version(), 'numpy': np.__version__,
              'opencv': cv2.__version__, 'transforms3d': version('transforms3d')}
    for package, cases in CASES.items():
        outcomes = {name: outcome(case) for name, case in cases().items()}
        write_recording(package, outcomes, origin)
