#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run a command with the library versions of Ubuntu 24.04: scripts/noble.sh COMMAND [ARGUMENT...]
# They are installed in .venv-noble, without ROS; a later call finds its stamp current.
# PYTHON=python3.12 chooses the interpreter, 3.10 - 3.12.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv-noble
requirements=$root/scripts/requirements
python=${PYTHON:-python3}

say() { echo "spann3r_ros: $*" >&2; }
fail() { say "$*"; exit 1; }

install() {
  local quiet=()
  [[ -t 1 ]] || quiet=(--quiet)
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' ||
    fail "numpy 1.26 has wheels for CPython 3.10 - 3.12, $python is $("$python" -V); name another: PYTHON=python3.12"
  "$python" -c 'import ensurepip, venv' || fail "missing here; run: sudo apt install $(basename "$python")-venv"
  say 'installing the library versions of Ubuntu 24.04 into .venv-noble (minutes, the first time)'
  rm -rf "$venv"
  "$python" -m venv "$venv"
  # What Ubuntu's versions are not asked of has the versions of the other tests.
  grep -ivE "^($(sed -nE 's/^([A-Za-z0-9-]+)==.*/\1/p' "$requirements/noble.txt" | sort -u | paste -sd '|'))==" \
    "$requirements/constraints.txt" > "$venv/constraints.txt"
  "$venv/bin/python" -m pip install --disable-pip-version-check "${quiet[@]}" -c "$venv/constraints.txt" \
    -r "$requirements/noble.txt" -r "$requirements/library.txt" -r "$requirements/dev.txt"
}

stamp() {
  echo "$root"
  cd "$requirements" && sha256sum noble.txt library.txt dev.txt places.txt constraints.txt "$root/scripts/noble.sh"
}

# Nothing of a sourced ROS installation may leak in: it has libraries of its own.
unset PYTHONPATH LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
exec 9> "$root/.setup-noble.lock"
flock 9  # two `make` at once set up once
current=$(stamp)
if [[ ! -f $venv/.stamp || $(<"$venv/.stamp") != "$current" ]]; then
  install
  echo "$current" > "$venv/.stamp"
fi
exec 9>&-
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
exec "$@"
