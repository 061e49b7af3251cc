# SPDX-License-Identifier: Apache-2.0
"""The synthetic mapper on a disk that writes a map only once the file `go` is beside the map."""
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from synthetic_mapper import create_network

from spann3r_ros.core.files import Content, replace_directory
from spann3r_ros.mapping.storage import map_directory
from spann3r_ros.ros.mapper_node import main


def wait_and_replace(directory: Path, contents: Mapping[str, Content]) -> None:
    (directory.parent / 'begun').touch()
    while not (directory.parent / 'go').exists():
        time.sleep(0.01)
    replace_directory(directory, contents)


if __name__ == '__main__':
    map_directory.replace_directory = wait_and_replace
    sys.exit(main(create_network=create_network))
