# SPDX-License-Identifier: Apache-2.0
"""The processes that torchrun starts for one run."""
from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import distributed as dist


@dataclass(frozen=True)
class Rank:
    """This process among those that share every step."""

    index: int = 0
    count: int = 1
    local: int = 0  # among those of this machine

    @classmethod
    def join(cls) -> Rank:
        """Join the process group that torchrun announces in the environment, if any."""
        if int(os.environ.get('WORLD_SIZE', '1')) == 1:
            return cls()
        # What is drawn lies on the CPU, also where the network does not.
        dist.init_process_group('cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo')
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get('LOCAL_RANK', '0')))

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.count > 1:
            # dist.barrier() would take the device of this process, which it cannot know.
            dist.all_reduce(torch.zeros(1))

    def agreed(self, answer: bool) -> bool:
        """Return what the first process answers; all must ask."""
        told = torch.tensor([float(answer)])
        if self.count > 1:
            dist.broadcast(told, src=0)
        return bool(told)
