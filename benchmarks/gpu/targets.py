"""What the numbers should reach, and whether they do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpu.models import VIT, VRWKV, VRWKV6, ModelRow
from gpu.op_times import DIRECTIONS, TRITON, OpRow

SHARE_OF_COPY = {DIRECTIONS[0]: 0.60, DIRECTIONS[1]: 0.45}  # of bi_wkv, from 1024 tokens and B·C = 8192 on
FASTER_THAN_VIT = {224: 0.95, 512: 1.1, 1024: 2.0, 2048: 5.5}  # images per second, both compiled
SLOWER_THAN_VRWKV = 1.5  # time of the V6 model, at most


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        name: what is compared.
        wanted: the number to reach: at least, or with `at_most` at most.
        found: the number measured; None if it was not.
    """

    name: str
    wanted: float
    found: float | None
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """In words."""
        if self.found is None:
            return "not measured"
        return "reached" if (self.found <= self.wanted if self.at_most else self.found >= self.wanted) else "missed"


def op_target(row: OpRow) -> Target | None:
    """The target of one row, if it has one."""
    case = row.job.case
    measured = row.job.implementation == TRITON and case.op == "bi_wkv" and not case.gate
    if not measured or case.tokens < 1024 or case.batch * case.channels < 8192:
        return None
    return Target(f"{case.name} {case.shape}, {row.direction}", SHARE_OF_COPY[row.direction], row.share)


def model_targets(rows: Sequence[ModelRow]) -> Iterator[Target]:
    """Ratios of compiled models at each size, inference and training."""
    found = {(row.job.model, row.job.size, row.job.training): row.images_per_second for row in rows if row.job.compiled}

    def ratio(one: str, other: str, size: int, training: bool) -> float | None:
        numerator, denominator = found.get((one, size, training)), found.get((other, size, training))
        return numerator / denominator if numerator and denominator else None

    for training in (False, True):
        mode = "training" if training else "inference"
        for size, wanted in FASTER_THAN_VIT.items():
            yield Target(f"vrwkv_tiny / vit_tiny, {size} px, {mode}", wanted, ratio(VRWKV, VIT, size, training))
        for size in FASTER_THAN_VIT:
            slower = ratio(VRWKV, VRWKV6, size, training)
            yield Target(f"time of vrwkv6_tiny / vrwkv_tiny, {size} px, {mode}", SLOWER_THAN_VRWKV, slower, True)
