# SPDX-License-Identifier: Apache-2.0
"""The path of a camera in one fragment: a Kalman filter with the network's drift in its state.

Two sources give the path. Tracked corners give the motion from one keyframe to the next
(`corner_motion`); its errors add up. The pointmap gives the camera's pose in the frame of the
network; its error has a part that is new in each frame, and a part that changes slowly, because
the network places each image by what it remembers of the last ones. The network's frame drifts.

State: the camera's pose T in the fragment, and its pose N in the network's frame. At the
beginning of a fragment both are equal; D = N T^-1 is the drift since then. The error is a vector
of twelve numbers: position and rotation (radians, about the camera) of T, along the axes of the
fragment, then the same of N, along the axes of the network's frame. P [12, 12] is its covariance.
With the motion M from the last keyframe and its covariance Q, the pose Z of the pointmap and
R_1 = `shared_covariance` of this pose:

    prior                   T = T_last M,  N = N_last M
                            P = F P_last F^T + A Q A^T + diag(0, B)
    drift                   B = drift v (R_1 of this keyframe + R_1 of the last one) / 2
    change of view          v = |shift of T| / mean depth + angle of M
    measurement covariance  R = R_1 / pointmap_weight
    innovation              y = (position of Z - position of N, log(rotation of Z N^-1))
    innovation covariance   S = P_NN + R
    chi-square gate         rejected if y^T S^-1 y exceeds the quantile of `gate_probability`
    gain, update            K = [P_TN; P_NN] S^-1,  (T, N) moved by K y
                            P <- (I - K H) P (I - K H)^T + K R K^T  with H = [0 I]

F moves both errors from the last camera to this one, and A turns those of the motion into the axes
of both frames. As the measurement corrects N, and T only as far as their errors are common, P_TT
grows with the distance from the beginning of the fragment.

Without a motion the pointmap alone gives the pose: N = Z, T = T_last N_last^-1 Z, P_NN = P_TN = R,
P_TT = R + E, where E = P_TT + P_NN - P_TN - P_NT + B is the covariance of the drift. It also holds
after a lost track, so that P_TT includes what the network has drifted until then.

After `MAX_REJECTED` rejected innovations in a row that agree with each other either the network or
the corners have jumped, and nothing shows which. The pose is then taken from the pointmap as
without a motion, and y y^T is added to E.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spann3r_ros.core.transforms import (
    invert,
    move_covariance,
    move_pose,
    rotation_vector,
    shift_jacobian,
    similarity_scale,
    to_rigid,
    without_rounding,
)
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of
from spann3r_ros.mapping.storage.saved_values import (
    is_covariance,
    read_covariance,
    read_rigid,
)

from .corner_motion import Motion
from .pnp import PoseSolution

# Below this mean gain a pointmap hardly changes the prior: a live pose is then the prior alone.
MIN_GAIN = 0.2
# After so many rejected measurements in a row that agree, the filter follows the pointmaps.
MAX_REJECTED = 3
# A motion of fewer corners rejects no measurement. Ten corners count as one measurement, and three
# of these determine the motion: a covariance from the rest alone is too uncertain.
MIN_GATING_INLIERS = 40


@dataclass(frozen=True)
class FilteredPose:
    """The pose of a frame in the fragment; None without motion and measurement.

    `covariance` [6, 6] is that of its error in position (fragment units) and in rotation (radians,
    about the camera), along the fragment's axes. `pointmap_correction` [4, 4] moves the points of
    its pointmap in the fragment. `mean_gain` in [0, 1] is the mean of the gain's diagonal: how
    much the measurement changed the pose. `gated`: the chi-square gate rejected the measurement.
    `reset`: it was accepted although it does not fit, as the last of `MAX_REJECTED` that agree.
    """

    fragment_from_camera: np.ndarray | None
    covariance: np.ndarray | None
    pointmap_correction: np.ndarray
    mean_gain: float = 1.0
    gated: bool = False
    reset: bool = False


@dataclass(frozen=True)
class _State:
    """The state after a keyframe: T, N, P and R_1 of the module's docstring.

    `growth` [6, 6] is what the last prior added to P_NN. `rejected` measurements in a row agree
    with `jump` [4, 4], which moves the network's pose to the newest of them.
    """

    camera: np.ndarray
    in_network: np.ndarray
    covariance: np.ndarray
    shared_covariance: np.ndarray
    distance: float
    growth: np.ndarray
    lost: bool = False
    rejected: int = 0
    jump: np.ndarray | None = None

    @property
    def drift_covariance(self) -> np.ndarray:
        own, cross, network = _blocks(self.covariance)
        return own + network - cross - cross.T


class PoseFilter:
    """Estimates the poses of one camera in a fragment, keyframe by keyframe.

    The frame of the poses may be any, as long as measurements are in the same one.
    """

    def __init__(self, config: PoseConfig) -> None:
        self._config = config
        self._state: _State | None = None
        self._mean_gain = 1.0

    def configure(self, config: PoseConfig) -> None:
        """Use other weights and thresholds from the next keyframe on."""
        self._config = config

    def prior_suffices(self, motion: Motion | None) -> bool:
        """Return whether a frame has a prior that a pointmap would hardly change."""
        return self._mean_gain < MIN_GAIN and self.estimate(motion, None).covariance is not None

    def update(self, motion: Motion | None, measured: PoseSolution | None) -> FilteredPose:
        """Return the pose of a keyframe; store the state for the next frames.

        `motion` is that from the last keyframe. A keyframe with neither has no pose, and the next
        one needs a measurement.
        """
        state, filtered = self._advance(motion, measured)
        self._state = state and replace(state, camera=without_rounding(state.camera),
                                        in_network=without_rounding(state.in_network))
        if measured is not None and not filtered.gated:
            self._mean_gain = filtered.mean_gain
        return filtered

    def estimate(self, motion: Motion | None, measured: PoseSolution | None) -> FilteredPose:
        """Return the pose of a frame as `update` does; change nothing."""
        return self._advance(motion, measured)[1]

    def begin_fragment(self, new_from_former: np.ndarray) -> None:
        """Go on in a new fragment; `new_from_former` [4, 4] is a similarity.

        The last keyframe keeps its pose and covariance. The network's new frame is placed at this
        pose, so the error of N is zero there, and that of T is the drift until then.
        """
        self._mean_gain = 1.0
        state = self._state
        if state is None:
            return
        pose = move_pose(new_from_former, state.camera)
        covariance = np.zeros((12, 12))
        covariance[:6, :6] = move_covariance(new_from_former, _blocks(state.covariance)[0])
        self._state = _State(
            pose, pose, covariance, move_covariance(new_from_former, state.shared_covariance),
            state.distance * similarity_scale(new_from_former), growth=np.zeros((6, 6)),
            lost=state.lost)

    def forget(self) -> None:
        """Forget the last keyframe: the next pose is that of its pointmap."""
        self._state, self._mean_gain = None, 1.0

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'mean_gain': self._mean_gain,
                'state': None if self._state is None else vars_of(self._state)}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self._mean_gain = node.number('mean_gain', 0.0, 1.0 + 1e-9)
        if not node.has('state'):
            self._state = None
            return
        state = node.node('state')
        covariance = state.array('covariance', np.float64, (12, 12))
        if not is_covariance(covariance):
            raise state.fault('covariance', 'a symmetric matrix of non-negative variances',
                              'another')
        self._state = _State(
            read_rigid(state, 'camera'), read_rigid(state, 'in_network'), covariance,
            read_covariance(state, 'shared_covariance'),
            state.number('distance', 1e-12, finite=False), read_covariance(state, 'growth'),
            state.flag('lost'), state.integer('rejected', 0, MAX_REJECTED),
            read_rigid(state, 'jump') if state.has('jump') else None)

    def _advance(self, motion: Motion | None,
                 measured: PoseSolution | None) -> tuple[_State | None, FilteredPose]:
        """Return the state after a frame, and its pose."""
        state = self._state
        if state is not None and not state.lost and motion is not None:
            state = self._predict(state, motion, measured)
            if measured is None:
                return state, _filtered(state, 0.0)
            return self._correct(state, measured, motion.inliers >= MIN_GATING_INLIERS)
        if measured is not None:
            state = self._without_motion(state, measured)
            return state, _filtered(state, 1.0)
        correction = np.eye(4) if state is None else state.camera @ invert(state.in_network)
        return (state and replace(state, lost=True, rejected=0, jump=None),
                FilteredPose(None, None, correction))

    def _predict(self, state: _State, motion: Motion, measured: PoseSolution | None) -> _State:
        """Return the prior."""
        camera = state.camera @ motion.first_from_second
        in_network = state.in_network @ motion.first_from_second
        to_camera, to_network = (
            shift_jacobian(new[:3, 3] - old[:3, 3])
            for new, old in ((camera, state.camera), (in_network, state.in_network)))
        moved, turns = np.zeros((12, 12)), np.zeros((12, 6))
        moved[:6, :6], moved[6:, 6:] = to_camera, to_network
        for row, pose in ((0, state.camera), (6, state.in_network)):
            turns[row:row + 3, :3] = turns[row + 3:row + 6, 3:] = pose[:3, :3]
        growth = turns @ motion.covariance @ turns.T
        growth[6:, 6:] += self._drift(state, camera, measured)
        return replace(state, camera=camera, in_network=in_network,
                       covariance=moved @ state.covariance @ moved.T + growth,
                       growth=growth[6:, 6:])

    def _correct(self, state: _State, measured: PoseSolution,
                 may_reject: bool) -> tuple[_State, FilteredPose]:
        """Return the state and the pose after a measurement, accepted or not."""
        cross, network = _blocks(state.covariance)[1:]
        noise = self._noise(measured)
        innovation = _difference(measured.fragment_from_camera, state.in_network)
        innovation_covariance = network + noise
        if may_reject and _exceeds(innovation, innovation_covariance,
                                   self._config.gate_probability):
            return self._reject(state, measured, innovation, noise)
        gain = np.vstack([cross, network]) @ np.linalg.inv(innovation_covariance)
        step = gain @ innovation
        # The form of Joseph: P - K S K^T would lose its last digits, and with them its sign.
        kept = np.eye(12)
        kept[:, 6:] -= gain
        covariance = kept @ state.covariance @ kept.T + gain @ noise @ gain.T
        state = replace(state, camera=_moved(state.camera, step[:6]),
                        in_network=_moved(state.in_network, step[6:]),
                        covariance=_symmetric(covariance), rejected=0, jump=None,
                        shared_covariance=measured.shared_covariance, distance=measured.distance)
        mean_gain = float(np.trace(gain[:6])) / 6.0
        return state, replace(_filtered(state, mean_gain), pointmap_correction=(
            state.camera @ invert(measured.fragment_from_camera)))

    def _noise(self, measured: PoseSolution) -> np.ndarray:
        return measured.shared_covariance / self._config.pointmap_weight

    def _drift(self, state: _State, camera: np.ndarray,
               measured: PoseSolution | None) -> np.ndarray:
        """Return the covariance [6, 6] of the network's drift from the last keyframe to a pose."""
        moved = _difference(camera, state.camera)
        change = np.linalg.norm(moved[:3]) / state.distance + np.linalg.norm(moved[3:])
        # A single pointmap with small residuals must not make the network seem free of drift.
        shared = (state.shared_covariance if measured is None
                  else 0.5 * (state.shared_covariance + measured.shared_covariance))
        return self._config.drift * float(change) * shared

    def _without_motion(self, state: _State | None, measured: PoseSolution,
                        jump: np.ndarray | None = None) -> _State:
        """Return the state in which the pointmap alone gives the pose.

        `jump` [6] is an innovation that may be the network's own and adds to the drift.
        """
        observed, noise = measured.fragment_from_camera, self._noise(measured)
        covariance = _common(noise)
        camera = observed
        if state is not None:
            camera = state.camera @ invert(state.in_network) @ observed
            lever = shift_jacobian(camera[:3, 3] - state.camera[:3, 3])
            drift = lever @ state.drift_covariance @ lever.T
            if jump is None:
                drift += self._drift(state, camera, measured)
            else:
                drift += np.outer(jump, jump)
            covariance[:6, :6] += drift
        return _State(camera, observed, covariance, measured.shared_covariance, measured.distance,
                      growth=np.zeros((6, 6)))

    def _reject(self, state: _State, measured: PoseSolution, innovation: np.ndarray,
                noise: np.ndarray) -> tuple[_State, FilteredPose]:
        """Return the state and the pose after a measurement that the gate rejects."""
        observed = measured.fragment_from_camera
        agrees = state.jump is not None and not _exceeds(
            _difference(observed, state.jump @ state.in_network), 2.0 * noise + state.growth,
            self._config.gate_probability)
        rejected = state.rejected + 1 if agrees else 1
        if rejected >= MAX_REJECTED:
            state = self._without_motion(state, measured, innovation)
            return state, replace(_filtered(state, 1.0), reset=True)
        state = replace(state, rejected=rejected, jump=observed @ invert(state.in_network))
        return state, replace(_filtered(state, 0.0), gated=True, pointmap_correction=(
            state.camera @ invert(measured.fragment_from_camera)))


def move_solution(similarity: np.ndarray, solution: PoseSolution) -> PoseSolution:
    """Return a solution moved to another frame by a similarity [4, 4]."""
    return replace(
        solution, fragment_from_camera=move_pose(similarity, solution.fragment_from_camera),
        covariance=move_covariance(similarity, solution.covariance),
        shared_covariance=move_covariance(similarity, solution.shared_covariance),
        distance=solution.distance * similarity_scale(similarity))


def _filtered(state: _State, mean_gain: float) -> FilteredPose:
    return FilteredPose(state.camera, _blocks(state.covariance)[0],
                        state.camera @ invert(state.in_network), mean_gain)


def _common(covariance: np.ndarray) -> np.ndarray:
    """Return P [12, 12] of two poses whose errors are equal, from their covariance [6, 6]."""
    return np.tile(covariance, (2, 2))


def _blocks(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return P_TT, P_TN and P_NN of P [12, 12]."""
    return covariance[:6, :6], covariance[:6, 6:], covariance[6:, 6:]


def _difference(pose: np.ndarray, from_pose: np.ndarray) -> np.ndarray:
    """Return the error vector [6] of a pose [4, 4] from another one."""
    return np.concatenate([pose[:3, 3] - from_pose[:3, 3],
                           rotation_vector(pose[:3, :3] @ from_pose[:3, :3].T)])


def _moved(pose: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return a pose [4, 4] moved by an error vector [6]."""
    rotation = to_rigid(step[3:], np.zeros(3))[:3, :3] @ pose[:3, :3]
    return to_rigid(rotation, pose[:3, 3] + step[:3])


def _exceeds(error: np.ndarray, covariance: np.ndarray, probability: float) -> bool:
    """Return whether y^T S^-1 y is above the chi-square quantile of six degrees of freedom."""
    half = 0.5 * float(error @ np.linalg.solve(covariance, error))
    # The distribution function of six degrees of freedom in closed form.
    return 1.0 - math.exp(-half) * (1.0 + half + 0.5 * half * half) > probability


def _symmetric(covariance: np.ndarray) -> np.ndarray:
    return 0.5 * (covariance + covariance.T)  # rounding makes it slightly asymmetric
