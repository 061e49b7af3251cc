# SPDX-License-Identifier: Apache-2.0
"""`scripts/demo` on the synthetic mapper."""
import sys
from pathlib import Path

from spann3r_ros.cli.main import main as command_line
from spann3r_ros.tools.demo import main as play

# Every image becomes a keyframe.
MAPPER = (str(Path(__file__).with_name('synthetic_mapper.py')), '--ros-args', '-p',
          'keyframes.selection:=stride', '--')

if __name__ == '__main__':
    sys.exit(command_line(['report', str(play(mapper=MAPPER))]))
