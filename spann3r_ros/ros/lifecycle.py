# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node that survives forbidden requests and logs every failure."""
from __future__ import annotations

import functools
import traceback
from collections.abc import Callable

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

Callback = Callable[..., TransitionCallbackReturn]


class TransitionFailedError(Exception):
    """A transition failed for a reason that the user can correct; the state does not change."""


def reported(callback: Callback) -> Callback:
    """Return a transition callback that logs its exceptions, which rclpy would hide.

    TransitionFailedError becomes FAILURE; every other exception becomes ERROR with its traceback.
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
    """Answers a request for a forbidden transition with `success=False`.

    In rclpy the error leaves `spin` instead and ends the process. The service callback has no
    public name; if it changes, `test_forbidden_transition_is_refused` fails.
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
