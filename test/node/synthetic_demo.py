# SPDX-License-Identifier: Apache-2.0
"""`scripts/demo` on the synthetic mapper."""
import sys
from pathlib import Path

from spann3r_ros.cli.main import main as command_line
from spann3r_ros.tools.demo import main as play

MAPPER = (str(Path(__file__).with_name('synthetic_mapper.py')),)

if __name__ == '__main__':
    sys.exit(command_line(['report', str(play(mapper=MAPPER))]))
