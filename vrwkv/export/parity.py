"""How far an exported file is from the model it was made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrwkv.export.errors import ExportFailure
from vrwkv.export.tower import Tower

LARGEST_DIFFERENCE = 1e-4  # relative to the largest value that eager gives


@dataclass(frozen=True)
class Difference:
    """Between two results for an input of `shape`: max|a - b|, and the same over max|b|."""

    shape: tuple[int, ...]
    absolute: float
    relative: float

    @property
    def acceptable(self) -> bool:
        """Whether it is rounding only; NaN is not."""
        return self.relative <= LARGEST_DIFFERENCE


def compare_with_eager(tower: Tower, exported: Callable[[Tensor], Tensor], seed: int = 0) -> list[Difference]:
    """Differences on random inputs of all `check_shapes`.

    Raises:
        ExportFailure: the exported file does not run.
    """
    differences = []
    for shape in tower.check_shapes:
        given = tower.draw(shape, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = tower.module(given).double()
            try:
                computed = exported(given).double()
            except RuntimeError as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ExportFailure(f"the exported file does not run on inputs of shape {shape}: {reason}") from error
        if computed.shape != expected.shape:
            differences.append(Difference(shape, float("inf"), float("inf")))
            continue
        absolute = (computed - expected).abs().max().item()
        differences.append(Difference(shape, absolute, absolute / max(expected.abs().max().item(), 1e-30)))
    return differences


def format_differences(differences: Sequence[Difference]) -> str:
    """A table for people."""
    lines = [f"{'input':<24} {'largest difference':>18} {'relative':>9}"]
    for difference in differences:
        shape = " × ".join(map(str, difference.shape))
        lines.append(f"{shape:<24} {difference.absolute:>18.1e} {difference.relative:>9.1e}")
    return "\n".join(lines)
