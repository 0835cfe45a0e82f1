"""Several processes, one training run: each takes its share of every batch, gradients are added up.

Started by ``torchrun``; without it there is one process and nothing here does anything. Sums, not
means, are exchanged: the loop divides by the weight of the whole batch, so two processes with 8
examples each take exactly the step of one process with 16.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")


def own_gpu() -> torch.device:
    """The GPU of this process: under ``torchrun`` one for each, else torch's current one.

    Raises:
        ValueError: there are more processes than GPUs.
    """
    if "LOCAL_RANK" not in os.environ:
        return torch.device("cuda")
    number, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= found:
        raise ValueError(
            f"process {number} of torchrun has no GPU: {found} found here; start as many processes "
            f"(--nproc-per-node={found}), or compute on the CPU (device cpu)"
        )
    return torch.device("cuda", number)


def start(device: torch.device) -> None:
    """Join the other processes, if ``torchrun`` has started any.

    Numbers and random states, which lie on the CPU, go through gloo; what lies on a GPU, the
    gradients, through nccl.
    """
    if "RANK" not in os.environ or not dist.is_available() or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device if device.index is not None else own_gpu())
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process; number 0 writes the files."""
    return dist.get_rank() if processes() > 1 else 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's share: every n-th item, from its own number on."""
    return items[rank() :: processes()]


def add_up(value: float | Tensor) -> float | Tensor:
    """The sum of a number, or of each in a tensor, over all processes."""
    if processes() == 1:
        return value
    total = torch.as_tensor(value, dtype=torch.float64).clone()
    dist.all_reduce(total)
    return total if isinstance(value, Tensor) else total.item()


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradient of every trainable parameter by its sum over all processes.

    A process whose share of a short batch is empty has no gradients, and adds zeros.
    """
    if processes() == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, total in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(total.view_as(p))


def gather(value: Tensor) -> list[Tensor]:
    """The tensors of all processes, which must be of one shape, in the order of their numbers."""
    if processes() == 1:
        return [value]
    found = [torch.empty_like(value) for _ in range(processes())]
    dist.all_gather(found, value)
    return found


def wait() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        dist.barrier()
