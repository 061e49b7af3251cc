# SPDX-License-Identifier: Apache-2.0
"""Replay what is around the network: preprocessing, focal length, losses, metrics."""
from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from focal_reference import estimate_focal_reference
from torch import Tensor

from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import preprocess
from spann3r_ros.evaluation.measures.alignment import align_by_medians
from spann3r_ros.evaluation.measures.metrics import nearest_distances, normal_consistency
from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.spann3r.checks.recipe import image, network_input, uniform, vector
from spann3r_ros.networks.spann3r.checks.recording import Arrays, Recording
from spann3r_ros.networks.spann3r.unroll import Unrolled
from spann3r_ros.training.losses import normalisation_factor, paper_losses


@dataclass(frozen=True)
class Case:
    """A batch of sequences: predictions, and truth [batch, frames, height, width, 3]."""

    output: Unrolled
    truth: Tensor
    valid: Tensor

    @property
    def final(self) -> Tensor:
        """Return each frame's final points: the last frame's come from the target head."""
        maps = (*self.output.reference, self.output.target[-1])
        return torch.stack([item.points for item in maps], dim=1)


def replay_extras(recording: Recording) -> Arrays:
    """Compute everything around the network that the original also computes."""
    arrays: Arrays = {'focal': np.array([_focal(recording)])}
    for batch in (1, 2):
        case = _case(recording, batch)
        losses = paper_losses(case.output, case.truth, case.valid, alpha=0.4, as_released=True)
        arrays |= {
            f'B{batch}_conf_loss': losses.confidence, f'B{batch}_scale_loss': losses.scale,
            f'B{batch}_factor_gt': normalisation_factor(case.truth, case.valid, True),
            f'B{batch}_factor_pred': normalisation_factor(case.final, case.valid, True)}
        if batch == 1:
            arrays |= _alignment(case)
    arrays |= _clouds(recording.meta['salt'])
    return {name: np.asarray(item) for name, item in arrays.items()}


def _focal(recording: Recording) -> float:
    (height, width), focal = recording.meta['focal_HW'], recording.meta['focal_true']
    salt = recording.meta['salt']
    z = 3.0 + 0.5 * vector('focal.z', (height, width), salt).numpy()
    v, u = np.mgrid[:height, :width].astype(np.float32)
    points = np.stack(((u - width / 2) / focal * z, (v - height / 2) / focal * z, z), axis=-1)
    points += 0.05 * vector('focal.n', (1, height, width, 3), salt)[0].numpy()
    points[0, 0] = 0.0
    return estimate_focal_reference(points)


def _case(recording: Recording, batch: int) -> Case:
    meta, name = recording.meta, f'loss{batch}'
    shape, frames = (batch, *meta['HW']), meta['frames']

    def vec(suffix: str, *extra: int) -> Tensor:
        return vector(f'{name}.{suffix}', (*shape, *extra), meta['salt'])

    poses = [torch.from_numpy(recording.arrays[f'B{batch}_pose{i}']) for i in range(frames)]
    world = torch.stack([2.0 * vec(f'g{i}', 3) + 1.0 for i in range(frames)], dim=1)
    from_world = torch.linalg.inv(poses[0])[:, None, None]  # [batch, 1, 1, 4, 4]
    truth = (world.flatten(2, 3) @ from_world[:, :, 0, :3, :3].mT
             + from_world[:, :, 0, None, :3, 3]).reshape(world.shape)
    valid = torch.stack([vec(f'm{i}') > -0.8 for i in range(frames)], dim=1)
    reference, target = (
        [DensePrediction(gain * vec(f'p{i}{side}', 3) + 0.3, vec(f'c{i}{side}'))
         for i in range(frames - 1)] for side, gain in (('a', 3.2), ('b', 1.5)))
    return Case(Unrolled(reference, target, []), truth, valid)


def _alignment(case: Case) -> Arrays:
    final, truth, valid = (item[0].numpy() for item in (case.final, case.truth, case.valid))
    alignment = align_by_medians(final, truth, valid)
    heads = {f'eval_pred_head{head}': np.concatenate(
        [alignment.centre_prediction(item.points.numpy()) for item in side])
        for head, side in ((1, case.output.reference), (2, case.output.target))}
    return heads | {
        'eval_gt': alignment.truth.centre(truth),
        'eval_gt_shift_z': alignment.truth.depth, 'eval_pred_shift_z': alignment.predicted.depth,
        'eval_gt_scale': alignment.truth.scale, 'eval_pred_scale': alignment.predicted.scale}


def _clouds(salt: int) -> Arrays:
    truth, predicted, truth_normals, predicted_normals = (
        uniform(name, (count, 3), salt)
        for name, count in (('acc.a', 300), ('acc.b', 400), ('acc.na', 300), ('acc.nb', 400)))
    truth_normals /= np.linalg.norm(truth_normals, axis=1, keepdims=True)
    predicted_normals /= np.linalg.norm(predicted_normals, axis=1, keepdims=True)
    arrays = {}
    for name, source, target, source_normals, target_normals in (
            ('accuracy', predicted, truth, predicted_normals, truth_normals),
            ('completion', truth, predicted, truth_normals, predicted_normals)):
        distances = nearest_distances(source, target)
        normals = normal_consistency(source, target, source_normals, target_normals)
        arrays[name] = np.array([distances.mean, distances.median, normals.mean, normals.median])
    return arrays


def replay_preprocess(recording: Recording) -> Arrays:
    """Resize and crop every source image; the checksums are compared here."""
    arrays: Arrays = {}
    for index, item in enumerate(recording.meta['items']):
        source = image(item['seed'], item['H'], item['W'], 0, 0)
        result = preprocess(Frame(0, 'camera', source, None), (224, 224)).image
        checksum = zlib.crc32(np.ascontiguousarray(result).tobytes())
        if checksum != item['crc32']:
            raise AssertionError(f'image {index} of {item["W"]}x{item["H"]}: CRC-32 {checksum}, '
                                 f'recorded {item["crc32"]}')
        step, norm_step = recording.meta['stride'], recording.meta['norm_stride']
        arrays[f'img{index}'] = result[::step, ::step]
        arrays[f'norm{index}'] = network_input(result)[0, :, ::norm_step, ::norm_step].numpy()
    return arrays
