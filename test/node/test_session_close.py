# SPDX-License-Identifier: Apache-2.0
"""The end of a session when one of its parts fails."""
from __future__ import annotations

from unittest.mock import Mock

import pytest

from spann3r_ros.ros.session import Session


@pytest.mark.parametrize('failing', ['runner', 'publishers', 'tf'])
def test_part_that_fails_at_the_end_leaves_no_other_part(failing: str) -> None:
    session, parts = Session.__new__(Session), Mock()
    session._intake, session._node, session._timer = None, parts.node, parts.timer
    session._runner, session._publishers = parts.runner, parts.publishers
    session._tf, session._diagnostics = parts.tf, parts.diagnostics
    session._files = parts.files
    steps = {'timer': parts.node.destroy_timer, 'runner': parts.runner.stop,
             'publishers': parts.publishers.destroy, 'tf': parts.tf.destroy,
             'diagnostics': parts.diagnostics.destroy, 'files': parts.files.shutdown}
    steps[failing].side_effect = RuntimeError('the network cannot be reset')
    with pytest.raises(RuntimeError, match='cannot be reset'):
        session.close()
    assert {name: step.call_count for name, step in steps.items()} == dict.fromkeys(steps, 1)
