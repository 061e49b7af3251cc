#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run a command in what scripts/bootstrap.sh has set up: scripts/run.sh COMMAND [ARGUMENT...]
set -eo pipefail  # colcon's setup files do not survive `set -u`
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/install/setup.bash"
export VIRTUAL_ENV=$root/.venv
export PATH=$VIRTUAL_ENV/bin:$PATH
# Raw images are lost at Fast DDS's default sizes; see the file.
export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$root/config/fastdds.xml}
exec "$@"
