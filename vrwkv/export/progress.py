"""What an export is doing, said while it takes its minutes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stages:
    """Announces each stage as it begins, and how long it took as it ends, each in a line of its own.

    A line is never left open for the seconds to come: compilers may write to standard error in between.

    Args:
        count: how many stages there will be.
        say: takes a line, such as `print`; None: nothing is said.
    """

    def __init__(self, count: int, say: Callable[[str], object] | None = None) -> None:
        self.count, self.say = count, say or (lambda line: None)
        self.begun = 0

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """The next stage, for the length of a `with` block."""
        self.begun += 1
        number, started = f"[{self.begun}/{self.count}]", time.perf_counter()
        self.say(f"{number} {title} ...")
        yield
        self.say(f"{number} took {time.perf_counter() - started:.1f} s")
