# SPDX-License-Identifier: Apache-2.0
"""The views of a map as `transforms.json` of nerfstudio."""
from __future__ import annotations

import json

import numpy as np

from spann3r_ros.core.camera import Intrinsics

from .map_content import MapContent

# nerfstudio's cameras look along -z, with y up.
OPTICAL_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
# The centre of the first pixel is at (0.5, 0.5) there.
FIRST_PIXEL = 0.5


def encode_transforms(content: MapContent, folder: str, cloud: str) -> bytes:
    """Return the views as JSON: `transform_matrix` is map from camera, in OpenGL's axes.

    The images are named `folder`/NAME; `cloud` is the name of the PLY file of initial points.
    """
    cameras = [_camera(view.intrinsics) for view in content.views]
    shared = cameras[0] if all(one == cameras[0] for one in cameras) else {}
    frames = [{'file_path': f'{folder}/{view.name}',
               'transform_matrix': (view.map_from_camera @ OPTICAL_FROM_OPENGL).tolist(),
               **({} if shared else camera)}
              for view, camera in zip(content.views, cameras, strict=True)]
    return (json.dumps({'camera_model': 'OPENCV', **shared, 'ply_file_path': cloud,
                        'map': content.facts, 'frames': frames}, indent=1) + '\n').encode()


def _camera(camera: Intrinsics) -> dict[str, float]:
    return {'fl_x': camera.fx, 'fl_y': camera.fy, 'cx': camera.cx + FIRST_PIXEL,
            'cy': camera.cy + FIRST_PIXEL, 'w': camera.width, 'h': camera.height,
            'k1': 0.0, 'k2': 0.0, 'p1': 0.0, 'p2': 0.0}
