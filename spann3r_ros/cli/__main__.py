# SPDX-License-Identifier: Apache-2.0
"""`python -m spann3r_ros.cli` is the same as `spann3r`."""
import sys

from .main import main

sys.exit(main())
