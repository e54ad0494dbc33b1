"""The same training in several processes: with a copy of the model in each, or with a part.

A script that runs alone runs in two processes as well, by `torchrun --nproc-per-node 2 script.py`:

    with launched(Replicated) as parallel:
        model = GPT(config).to(parallel.device)
        Trainer(model, batches, optimizer=adamw(model, 3e-4), parallel=parallel).fit(1000)

Each process takes its slice of every batch, so the batch is the same however many there are.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from transformer_lab.training.parallel import ALONE, Alone


class Replicated(Alone):
    """A copy of the model in each process; gradients are averaged (DistributedDataParallel).

    Raises: ValueError if no process group is there; `launched` makes one.
    Source: Li et al. 2020 (PyTorch Distributed), section 3.
    """

    def __init__(self) -> None:
        if not dist.is_initialized():
            raise ValueError(
                "there is no process group. Use `with launched(...) as parallel:` and start the script "
                "with torchrun."
            )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def device(self) -> torch.device:
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("cpu")

    def wrap(self, model: nn.Module) -> nn.Module:
        device = next(model.parameters()).device
        return DistributedDataParallel(model, [device] if device.type == "cuda" else None)

    def accumulating(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[object]:
        if last or not isinstance(wrapped, DistributedDataParallel):
            return nullcontext()
        return wrapped.no_sync()

    def total(self, number: Tensor) -> Tensor:
        number = number.clone()
        dist.all_reduce(number)
        return number

    def wait(self) -> None:
        dist.barrier()


class Sharded(Replicated):
    """A part of each weight in each process, put together when needed (FSDP2's fully_shard).

    Shard the model with `shard` before its optimiser is made.

    Raises: ValueError if no process group is there; `launched` makes one.
    Source: Rajbhandari et al. 2020 (ZeRO), section 5, stage 3.
    """

    def wrap(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, FSDPModule):
            raise ValueError(
                "the model isn't sharded. Call shard(model) before you make the optimiser, which "
                "must train the parts."
            )
        return model

    def accumulating(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[object]:
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(last)
        return nullcontext()

    def gather(self, tree: Any) -> Any:
        if isinstance(tree, DTensor):
            return tree.full_tensor()
        if isinstance(tree, Mapping):
            return {key: self.gather(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.gather(value) for value in tree]
        return tree

    def spread(self, tree: Mapping[Any, Any], like: Mapping[Any, Any]) -> dict[Any, Any]:
        def own(value: Any, kept: Any) -> Any:
            if not isinstance(kept, DTensor) or value.shape != kept.shape:
                return value
            return distribute_tensor(value.to(kept.device), kept.device_mesh, kept.placements)

        return {key: own(value, like.get(key)) for key, value in tree.items()}


def shard(model: nn.Module) -> nn.Module:
    """Spread the weights over all processes, in place: each block for itself, then the rest.

    Args:
        model: Its blocks are what its nn.ModuleLists hold. All processes must start with equal weights:
            call torch.manual_seed before the model is made.

    Returns: The model.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(model)
    return model


@contextmanager
def launched(kind: Callable[[], Alone] = Replicated) -> Iterator[Alone]:
    """Join the processes that torchrun started; without torchrun, run alone.

    Args:
        kind: `Replicated` or `Sharded`.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield kind()
    finally:
        dist.destroy_process_group()
