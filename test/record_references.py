# SPDX-License-Identifier: Apache-2.0
"""Record what Open3D and evo compute of the tests' clouds and paths: `pip install open3d evo`."""
import json
import sys
from pathlib import Path

import evo
import numpy as np
import open3d
from evo.core import metrics
from evo.core.trajectory import PosePath3D

sys.path[:0] = [str(Path(__file__).parent / 'unit'), str(Path(__file__).parents[1])]
import test_clouds  # noqa: E402
import test_trajectories  # noqa: E402


def to_open3d(points: np.ndarray) -> open3d.geometry.PointCloud:
    """Return the points as Open3D's own type."""
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))


def register(source: open3d.geometry.PointCloud, target: open3d.geometry.PointCloud
             ) -> open3d.pipelines.registration.RegistrationResult:
    """Run ICP as the paper's evaluation does."""
    return open3d.pipelines.registration.registration_icp(source, target, 0.1, np.eye(4))


def record_paths() -> None:
    """Write what evo finds between two paths, scale corrected."""
    estimate, truth = (PosePath3D(poses_se3=list(poses)) for poses in test_trajectories.paths())
    estimate.align(truth, correct_scale=True)
    found = {'evo': evo.__version__}
    for name, metric in (
            ('trajectory_error', metrics.APE(metrics.PoseRelation.translation_part)),
            ('translation', metrics.RPE(metrics.PoseRelation.translation_part)),
            ('rotation_deg', metrics.RPE(metrics.PoseRelation.rotation_angle_deg))):
        metric.process_data((truth, estimate))
        found[name] = metric.get_statistic(metrics.StatisticsType.rmse)
    found['path_length'] = truth.path_length
    test_trajectories.RECORDED.write_text(json.dumps(found, indent=2) + '\n')


def record_clouds() -> None:
    """Write what Open3D finds between two clouds."""
    predicted, truth = test_clouds.clouds()
    far = register(*map(to_open3d, test_clouds.far_clouds()))
    source, target = to_open3d(predicted), to_open3d(truth)
    found = register(source, target)
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
    test_clouds.RECORDED.write_text(json.dumps({
        'open3d': open3d.__version__, 'transformation': found.transformation.tolist(),
        'far_transformation': far.transformation.tolist(),
        'accuracy': [accuracy.mean(), np.median(accuracy)],
        'completion': [completion.mean(), np.median(completion)],
        'normals': [np.mean([item.mean() for item in agreement]),
                    np.mean([np.median(item) for item in agreement])],
    }, indent=2) + '\n')


record_paths()
record_clouds()
