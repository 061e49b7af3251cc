# SPDX-License-Identifier: Apache-2.0
"""The processes of a run that torchrun started."""
from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import distributed as dist


@dataclass(frozen=True)
class Rank:
    """The index of this process among those that share every step."""

    index: int = 0
    count: int = 1
    local: int = 0  # index among the processes of this machine

    @classmethod
    def join(cls) -> Rank:
        """Join the process group that torchrun announces in the environment, if any."""
        if int(os.environ.get('WORLD_SIZE', '1')) == 1:
            return cls()
        # Random states are on the CPU, also when the network is on CUDA.
        dist.init_process_group('cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo')
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get('LOCAL_RANK', '0')))

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.count > 1:
            # dist.barrier() would have to guess the device of this process.
            dist.all_reduce(torch.zeros(1))

    def agreed(self, value: bool) -> bool:
        """Return the value of the first process; all must call."""
        shared = torch.tensor([float(value)])
        if self.count > 1:
            dist.broadcast(shared, src=0)
        return bool(shared)
