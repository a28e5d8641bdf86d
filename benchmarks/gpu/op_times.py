"""Times of one op at one shape, forward and forward with backward, for one implementation."""

from dataclasses import dataclass
from functools import partial

import torch

from gpu.cases import Case, useful_bytes
from gpu.rivals import LARGEST_ERROR, NotInstalled, rival
from gpu.timing import Task, Times, measure
from gpu.verify import Function, compare

TRITON = "triton"  # the backend of that name
DIRECTIONS = ("forward", "forward + backward")


@dataclass(frozen=True)
class OpJob:
    """What to time.

    Attributes:
        case: op and shape.
        implementation: TRITON (verified before), or a rival of gpu.rivals (verified here).
        copy_bandwidth: bytes per second of a copy on this device.
    """

    case: Case
    implementation: str
    copy_bandwidth: float

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.case.name} {self.case.shape}, {self.implementation}"


@dataclass(frozen=True)
class OpRow:
    """One line of the table of ops; numbers are missing where `note` says why.

    Attributes:
        times: seconds.
        bandwidth: useful bytes per second.
        share: the same, relative to a copy.
        ideal: seconds that a copy of the useful bytes takes.
    """

    job: OpJob
    direction: str
    times: Times | None = None
    bandwidth: float | None = None
    share: float | None = None
    ideal: float | None = None
    note: str = ""


def time_op(job: OpJob, device: str, seconds: float) -> list[OpRow]:
    """Two rows, or one that says why not. A rival is first compared with float64."""
    case = job.case
    function: Function = partial(case.run, TRITON)
    if job.implementation != TRITON:
        try:
            function = rival(job.implementation, case)
        except NotInstalled as reason:
            return [OpRow(job, DIRECTIONS[0], note=str(reason))]
        _, failure = compare(case, function, device, tolerance=LARGEST_ERROR)
        if failure:
            return [OpRow(job, DIRECTIONS[0], note=f"not timed: {failure}")]
    inputs = case.draw(device)
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    grads = case.draw_gradients(device)
    tasks: list[Task] = [
        torch.no_grad()(lambda: function(inputs)),
        lambda: torch.autograd.grad(function(leaves), leaves, grads),
    ]
    rows = []
    for direction, task in zip(DIRECTIONS, tasks, strict=True):
        times = measure(task, device, flush=True, seconds=seconds)
        ideal = useful_bytes(case, backward=direction != DIRECTIONS[0]) / job.copy_bandwidth
        bandwidth = ideal * job.copy_bandwidth / times.median
        rows.append(OpRow(job, direction, times, bandwidth, bandwidth / job.copy_bandwidth, ideal))
    return rows
