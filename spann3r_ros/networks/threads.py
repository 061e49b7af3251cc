# SPDX-License-Identifier: Apache-2.0
"""How many CPU threads a network uses, and how they wait for work; cheap to import."""
from __future__ import annotations

import os

# Networks with fewer weights use one thread: their products are so short that a second thread
# saves no time, and waits for the processor where other programs use it. Others use one thread a
# core. The rule is fixed, not measured at the start: sums of floating-point numbers, and so the
# hashes of a map, depend on the number of threads.
LEAST_WEIGHTS_FOR_THREADS = 50_000_000
MAX_THREADS = 256


def wait_without_spinning() -> None:
    """Let threads that wait for work sleep; call this before torch is imported.

    By default the threads of OpenMP, which torch uses, spin for milliseconds, and take the
    processor from the thread they wait for. OMP_WAIT_POLICY or GOMP_SPINCOUNT of the user is kept.
    """
    if 'GOMP_SPINCOUNT' not in os.environ:
        os.environ.setdefault('OMP_WAIT_POLICY', 'passive')


def set_threads(threads: int, weights: int) -> None:
    """Set the CPU threads of torch in this process.

    0: the number of OMP_NUM_THREADS if that is set, otherwise by the number of weights.
    """
    import torch
    # OpenMP accepts a list, one number for each level of nesting, and ignores what is no number.
    given = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0].strip()
    if not threads and given.isdecimal():
        threads = int(given)
    if not threads:
        threads = (1 if weights < LEAST_WEIGHTS_FOR_THREADS
                   else len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
