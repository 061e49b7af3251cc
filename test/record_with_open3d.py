# SPDX-License-Identifier: Apache-2.0
"""Record what Open3D computes from clouds of test/unit/test_clouds.py: `pip install open3d`."""
import json
import sys
from pathlib import Path

import numpy as np
import open3d

sys.path[:0] = [str(Path(__file__).parent / 'unit'), str(Path(__file__).parents[1])]
from test_clouds import RECORDED, clouds  # noqa: E402


def to_open3d(points: np.ndarray) -> open3d.geometry.PointCloud:
    """Return the points as Open3D's own type."""
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))


def main() -> None:
    """Write the file that the test reads."""
    predicted, truth = clouds()
    source, target = to_open3d(predicted), to_open3d(truth)
    found = open3d.pipelines.registration.registration_icp(source, target, 0.1, np.eye(4))
    source.transform(found.transformation)
    source.estimate_normals()
    target.estimate_normals()
    trees = [open3d.geometry.KDTreeFlann(item) for item in (source, target)]
    normals = [np.asarray(item.normals) for item in (source, target)]
    nearest = [[trees[1 - way].search_knn_vector_3d(point, 1)[1][0] for point in item.points]
               for way, item in enumerate((source, target))]
    agreement = [np.abs((normals[way] * normals[1 - way][nearest[way]]).sum(axis=1))
                 for way in (0, 1)]
    accuracy, completion = (np.asarray(one.compute_point_cloud_distance(other))
                            for one, other in ((source, target), (target, source)))
    RECORDED.write_text(json.dumps({
        'open3d': open3d.__version__, 'transformation': found.transformation.tolist(),
        'accuracy': [accuracy.mean(), np.median(accuracy)],
        'completion': [completion.mean(), np.median(completion)],
        'normals': [np.mean([item.mean() for item in agreement]),
                    np.mean([np.median(item) for item in agreement])],
    }, indent=2) + '\n')


main()
