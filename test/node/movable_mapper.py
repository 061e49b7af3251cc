# SPDX-License-Identifier: Apache-2.0
"""The synthetic mapper, whose fragments a test can move or connect by loops.

Messages: a fragment id and a similarity [4, 4]; two ids and `first_from_second` [4, 4].
"""
import sys

import numpy as np
from std_msgs.msg import Float64MultiArray
from synthetic_mapper import create_network

from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.ros import mapper_node
from spann3r_ros.ros.mapper_node import MapperNode

TOPIC = '/test/move_fragment'
LOOP_TOPIC, LOOP_ADDED = '/test/add_loop', 'a loop was added'
COVARIANCE = np.diag([0.002] * 3 + [0.002] * 3 + [0.005]) ** 2


class MovableNode(MapperNode):
    """Moves a fragment, or hands a loop to the back end as a detector of loops does."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.create_subscription(Float64MultiArray, TOPIC, self._move, 10)
        self.create_subscription(Float64MultiArray, LOOP_TOPIC, self._add_loop, 10)

    def _move(self, message: Float64MultiArray) -> None:
        fragment_id, *place = message.data
        self._session._runner.move_fragment(int(fragment_id), np.reshape(place, (4, 4)))

    def _add_loop(self, message: Float64MultiArray) -> None:
        first, second, *between = message.data
        loop = Constraint('loop', int(first), int(second), np.reshape(between, (4, 4)), COVARIANCE)
        runner = self._session._runner

        def add() -> None:
            state = runner.mapper._state
            state.back_end.correction.add([loop], state.atlas)
        runner.call(add)
        self.get_logger().info(LOOP_ADDED)


if __name__ == '__main__':
    mapper_node.MapperNode = MovableNode
    sys.exit(mapper_node.main(create_network=create_network))
