#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run a command in the environment that scripts/bootstrap.sh has set up:
#   scripts/run.sh COMMAND [ARGUMENT...]
set -eo pipefail  # colcon's setup files fail with `set -u`
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/install/setup.bash"
export VIRTUAL_ENV=$root/.venv
export PATH=$VIRTUAL_ENV/bin:$PATH
# With the default sizes of Fast DDS raw images are lost; the file describes this.
export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$root/config/fastdds.xml}
exec "$@"
