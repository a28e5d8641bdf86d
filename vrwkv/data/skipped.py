"""The account of samples that could not be read, and the decision when there are too many."""

import math
from dataclasses import dataclass, field

from vrwkv.errors import InputError

EXAMPLES_KEPT = 20
_CHANCE_DEVIATIONS = 5


@dataclass
class Skipped:
    """Corrupt samples that a loader met in this process.

    Attributes:
        count: encounters; a sample met in two epochs counts twice.
        indices: the distinct data set indices met.
        examples: name and reason of the first 20 distinct ones.
    """

    count: int = 0
    indices: set[int] = field(default_factory=set)
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, index: int, name: str, reason: str) -> None:
        """Record one encounter with the corrupt sample at `index`."""
        self.count += 1
        if index not in self.indices and len(self.examples) < EXAMPLES_KEPT:
            self.examples.append((name, reason))
        self.indices.add(index)

    def report(self) -> str:
        """One line, or a few: how many samples were skipped, and the first of them."""
        if not self.count:
            return "no corrupt samples"
        times = "" if self.count == len(self.indices) else f", met {self.count} times"
        lines = [f"skipped {len(self.indices)} corrupt {_samples(len(self.indices))}{times}:"]
        lines += [f"  {name}: {reason}" for name, reason in self.examples[:3]]
        if len(self.indices) > 3:
            lines.append(f"  and {len(self.indices) - 3} more")
        return "\n".join(lines)


@dataclass(frozen=True)
class Tolerance:
    """How many corrupt samples a set may hold.

    Two rules, either of which ends the run. The distinct corrupt samples exceed `fraction` of the whole set: exact and
    independent of the order, and one bad image in a set of fewer than 1 / fraction samples is an error at once. Or, in
    shuffled data, the corrupt ones among the samples drawn so far are more than chance explains at that share (the
    expected number, five standard deviations and five more): so that a set of ten million with every third file missing
    fails in its first batches, not after a hundred thousand skips.
    """

    fraction: float
    set_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise InputError(f"data.max_corrupt_fraction must lie between 0 and 1, got {self.fraction}")

    def exceeded_by(self, distinct: int) -> bool:
        """Whether `distinct` corrupt samples are too many for the whole set."""
        # The margin keeps 0.29 * 100 at 29.
        return distinct > math.floor(self.fraction * self.set_size + 1e-6)

    def check(self, skipped: Skipped, drawn: int = 0, drawn_corrupt: int = 0) -> None:
        """Decide whether to go on.

        Args:
            skipped: everything met so far.
            drawn: samples drawn at random so far; 0 where the order is not random.
            drawn_corrupt: how many of these were corrupt (without those met while looking for a substitute).

        Raises:
            InputError: too many corrupt samples; names the first and the option that tolerates more.
        """
        distinct = len(skipped.indices)
        if not distinct:
            return
        expected = self.fraction * drawn
        if self.exceeded_by(distinct):
            share = f"{distinct} of the set's {self.set_size} {_samples(self.set_size)}"
        elif drawn and drawn_corrupt > expected + _CHANCE_DEVIATIONS * (1 + math.sqrt(expected)):
            share = f"{drawn_corrupt} of the {drawn} samples drawn so far"
        else:
            return
        name, reason = skipped.examples[0]
        raise InputError(
            f"cannot read {share}, more than data.max_corrupt_fraction={self.fraction:g} allows; the first: "
            f"{name}: {reason}; repair the data or raise data.max_corrupt_fraction"
        )


def _samples(number: int) -> str:
    return "sample" if number == 1 else "samples"
