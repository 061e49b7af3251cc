# SPDX-License-Identifier: Apache-2.0
"""Whether a bag that starts together with the node loses images: `make bench-bag-launch`.

Mapper and player start at the same time, as the launch file starts them, beside busy processes.
In replay mode every image has to be used on every try; in live mode the share is printed.
"""
from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from busy_processes import busy

from spann3r_ros import share_directory
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.tools.launch_plan import arguments, describe_by, make_plan
from spann3r_ros.tools.processes import Child, private_domain

PLAYER = [sys.executable, '-m', 'spann3r_ros.tools.bag_player']
MAPPER = ['-m', 'spann3r_ros.ros.mapper_node']
ACCOUNT = re.compile(r'the bag has ended: (\d+) images sent, (\d+) used')
TRY_SEC = 300.0


def play_once(bag: Path, mode: str, folder: Path) -> tuple[int, int]:
    """Start mapper and player at once; return how many images were sent and used."""
    given = {name: one.default for name, one in arguments(share_directory()).items()}
    plan = make_plan({**given, 'bag': str(bag), 'mode': mode}, describe_by(PLAYER))
    # Every image is to be used.
    words = ['--ros-args', '--params-file', plan.params_file,
             '-p', 'keyframes.selection:=stride']
    for name, value in plan.parameters.items():
        words += ['-p', f'{name}:={str(value).lower() if isinstance(value, bool) else value}']
    for source, target in plan.remappings:
        words += ['-r', f'{source}:={target}']
    with Child([*MAPPER, *words], folder / 'mapper.log'):
        done = subprocess.run([*PLAYER, *plan.player], capture_output=True, text=True,
                              timeout=TRY_SEC)
    found = ACCOUNT.search(done.stdout + done.stderr)
    if found is None:
        raise SystemExit(f'the player reported nothing: {done.stdout}{done.stderr}')
    return int(found[1]), int(found[2])


def main() -> int:
    """Run the tries; return 1 if an image was lost in replay mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tries', type=int, default=20)
    parser.add_argument('--busy', type=int, default=2, help='processes that compute beside them')
    parser.add_argument('--bag', type=Path, default=share_directory() / 'bags' / 'demo_room')
    parser.add_argument('--modes', nargs='+', default=['replay', 'live'])
    values = parser.parse_args()
    rows, lost = [], 0
    with ExitStack() as stack:
        domain = stack.enter_context(private_domain())
        os.environ |= {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(busy(values.busy))
        for mode in values.modes:
            accounts = [play_once(values.bag, mode, folder) for _ in range(values.tries)]
            used = [two for _, two in accounts]
            rows.append([mode, str(values.tries), str(accounts[0][0]), str(min(used)),
                         str(max(used))])
            if mode == 'replay':
                lost = sum(one - two for one, two in accounts)
    print(format_table(['mode', 'tries', 'images', 'least used', 'most used'], rows))
    return 1 if lost else 0


if __name__ == '__main__':
    sys.exit(main())
