# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node that survives wrong requests and never fails in silence."""
from __future__ import annotations

import functools
import traceback
from collections.abc import Callable

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

Callback = Callable[..., TransitionCallbackReturn]


class TransitionFailedError(Exception):
    """A transition cannot be made, for a reason the user can mend; the state stays."""


def reported(callback: Callback) -> Callback:
    """Wrap a transition callback so that what it raises is logged before rclpy swallows it.

    TransitionFailedError becomes FAILURE, everything else ERROR with its traceback.
    """
    @functools.wraps(callback)
    def wrapper(node: LifecycleNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(node, state)
        except TransitionFailedError as error:
            node.get_logger().error(f'{callback.__name__} failed: {error}')
            return TransitionCallbackReturn.FAILURE
        except Exception:
            node.get_logger().error(f'{callback.__name__}: {traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR
    return wrapper


class RobustLifecycleNode(LifecycleNode):
    """Answers a transition that is not allowed with `success=False`.

    rclpy lets the error out of `spin` instead, which ends the process. The service callback has
    no public name: `test_forbidden_transition_is_refused` tells when it changes.
    """

    def _LifecycleNodeMixin__on_change_state(  # noqa: N802
            self, request: ChangeState.Request,
            response: ChangeState.Response) -> ChangeState.Response:
        try:
            return super()._LifecycleNodeMixin__on_change_state(request, response)
        except rclpy_implementation.RCLError as error:
            self.get_logger().warning(f'transition refused: {error}')
            response.success = False
            return response
