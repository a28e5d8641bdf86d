"""Processes of a run: who am I, what do the others know, and how a model is wrapped for several of them."""

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vrwkv.errors import InputError

ResultT = TypeVar("ResultT")

# Rank 0 evaluates and saves while the others wait in a collective; this bounds the wait.
_LONGEST_WAIT = datetime.timedelta(hours=4)


@dataclass(frozen=True)
class Distributed:
    """This process among the `world_size` processes of a run. A single process needs no process group."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def sum(self, values: Sequence[float | Tensor]) -> list[float]:
        """Sum scalars over the processes, each on its own place in the list. One synchronisation with the device."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.stack([torch.as_tensor(value).detach().to(self.device, dtype) for value in values])
        if self.world_size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def on_main(self, function: Callable[[], ResultT]) -> ResultT:
        """Call `function` on the main process while the others wait; every process gets its result or its error.

        Args:
            function: returns something that pickles.

        Raises:
            InputError: where the main process met one, on every process. Another error is raised as it is on the main
                process and as a RuntimeError elsewhere, so that no process waits for ever.
        """
        if self.world_size == 1:
            return function()
        outcome: list = [None, None, None]  # result, user's mistake, other error
        failure: BaseException | None = None
        if self.is_main:
            try:
                outcome[0] = function()
            except InputError as error:
                failure, outcome[1] = error, str(error)
            except BaseException as error:
                failure, outcome[2] = error, repr(error)
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise InputError(outcome[1])
        if outcome[2] is not None:
            raise RuntimeError(f"the main process failed: {outcome[2]}")
        return outcome[0]


@contextmanager
def distributed_run(device: str = "auto") -> Iterator[Distributed]:
    """Join the run that torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK) describes; leave it at the end.

    Args:
        device: `auto` (a GPU where there is one, else the CPU) or a torch device. Several processes on `cuda` take one
            GPU each, by LOCAL_RANK, and talk through nccl; on the CPU they talk through gloo.

    Raises:
        InputError: a device that is unknown or not there, or an incomplete environment.
    """
    rank, world_size, local_rank = _from_environment()
    place = choose_device(device, local_rank, world_size)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    distributed = Distributed(rank, world_size, local_rank, place)
    if world_size == 1:
        yield distributed
        return
    backend = "nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_LONGEST_WAIT, device_id=place if place.type == "cuda" else None)
    try:
        yield distributed
    finally:
        dist.destroy_process_group()


def choose_device(name: str, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """The torch device behind a name such as `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        name = accelerator.type if accelerator is not None else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device '{name}' (run.device): use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device '{name}' (run.device) is not available: torch sees no CUDA GPU; use cpu or auto")
        index = local_rank if world_size > 1 else device.index or 0
        if index >= torch.cuda.device_count():
            raise InputError(f"GPU {index} is not there: this machine has {torch.cuda.device_count()} of them")
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device '{name}' (run.device) is not available here; use cpu or auto")
    if device.type not in ("cpu", "mps", "xpu"):
        raise InputError(f"device '{name}' (run.device) cannot train; use auto, cpu, cuda, cuda:N or mps")
    return device


def wrap_model(model: nn.Module, distributed: Distributed) -> nn.Module:
    """The model as several processes train it together (their gradients averaged); unchanged for a single one."""
    if distributed.world_size == 1:
        return model
    device_ids = [distributed.device.index] if distributed.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids)


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _from_environment() -> tuple[int, int, int]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: os.environ[name] for name in names if name in os.environ}
    if int(given.get("WORLD_SIZE", 1)) == 1:
        return 0, 1, 0
    missing = [name for name in (*names, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is set but {', '.join(missing)} is not: start several processes with torchrun")
    return int(given["RANK"]), int(given["WORLD_SIZE"]), int(given["LOCAL_RANK"])
