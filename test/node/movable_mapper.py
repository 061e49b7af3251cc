# SPDX-License-Identifier: Apache-2.0
"""The synthetic mapper, whose fragments a test can move: fragment id and similarity [4, 4]."""
import sys

import numpy as np
from std_msgs.msg import Float64MultiArray
from synthetic_mapper import create_network

from spann3r_ros.ros import mapper_node
from spann3r_ros.ros.mapper_node import MapperNode

TOPIC = '/test/move_fragment'


class MovableNode(MapperNode):
    """Moves a fragment as loop closure or a metric scale will."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.create_subscription(Float64MultiArray, TOPIC, self._move, 10)

    def _move(self, message: Float64MultiArray) -> None:
        fragment_id, *place = message.data
        self._session._runner.move_fragment(int(fragment_id), np.reshape(place, (4, 4)))


if __name__ == '__main__':
    mapper_node.MapperNode = MovableNode
    sys.exit(mapper_node.main(create_network=create_network))
