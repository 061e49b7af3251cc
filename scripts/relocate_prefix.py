# SPDX-License-Identifier: Apache-2.0
"""Turn the virtual environment of this interpreter into a ROS 2 prefix that colcon can chain."""
from __future__ import annotations

import re
import shlex
import sys
import sysconfig
from pathlib import Path

import numpy

# Sourced by sh, bash, zsh and by colcon's chained setup files, also without `set +u`.
LOCAL_SETUP = """\
# ROS 2 prefix inside a Python virtual environment.
_ros_venv={prefix}
_ros_front() {{
  eval "_ros_old=\\${{$1:-}}"
  case ":$_ros_old:" in
    *":$2:"*) ;;
    *) if [ -n "$_ros_old" ]; then eval "export $1=\\"\\$2:\\$_ros_old\\""
       else eval "export $1=\\"\\$2\\""; fi ;;
  esac
}}
_ros_front AMENT_PREFIX_PATH "$_ros_venv"
_ros_front CMAKE_PREFIX_PATH "$_ros_venv"
for _ros_dir in "$_ros_venv"/lib/python3*/site-packages/ros_*.libs "$_ros_venv/lib"; do
  [ -d "$_ros_dir" ] && _ros_front LD_LIBRARY_PATH "$_ros_dir"
done
_ros_front PATH "$_ros_venv/bin"
# Without it CMake may choose the newest python3 on PATH instead of this one.
: "${{VIRTUAL_ENV:=$_ros_venv}}"; export VIRTUAL_ENV
# The library path is complete: the wheels need not re-execute the interpreter to extend it.
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3
: "${{RMW_IMPLEMENTATION:=rmw_fastrtps_cpp}}"; export RMW_IMPLEMENTATION
unset -f _ros_front; unset _ros_old _ros_dir _ros_venv
"""


def relocate_cmake_files(prefix: Path) -> None:
    """Replace the wheel builders' Python and numpy include directories by this interpreter's."""
    python = r'/opt/python/cp\d+-cp\d+t?'
    here = {
        python + r'/lib/python[\d.]+t?/site-packages/numpy/_?core/include': numpy.get_include(),
        python + r'/include/python[\d.]+t?': sysconfig.get_paths()['include'],
    }
    for path in (prefix / 'share').glob('*/cmake/*.cmake'):
        old = new = path.read_text()
        for pattern, directory in here.items():
            new = re.sub(pattern, lambda _match, directory=directory: directory, new)
        if new != old:
            path.write_text(new)


def write_setup_files(prefix: Path) -> None:
    """Write the `local_setup.*` and `setup.*` files that an ament prefix must have."""
    local = prefix / 'local_setup.sh'
    quoted = shlex.quote(str(prefix))
    local.write_text(LOCAL_SETUP.format(prefix=quoted))
    source = f'. {shlex.quote(str(local))}\n'
    for shell in ('bash', 'zsh'):
        (prefix / f'local_setup.{shell}').write_text(source)
    for shell in ('sh', 'bash', 'zsh'):
        (prefix / f'setup.{shell}').write_text(
            f'VIRTUAL_ENV={quoted}; export VIRTUAL_ENV\n{source}')


if __name__ == '__main__':
    relocate_cmake_files(Path(sys.prefix))
    write_setup_files(Path(sys.prefix))
