"""What every evaluation does around a model."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from torch import nn

Item = TypeVar("Item")


class Modular(Protocol):
    """A module, or what is made of modules, such as a model with two towers."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def modules(self) -> Iterator[nn.Module]:
        """Every module of the model."""


@contextmanager
def evaluation_mode(model: Modular) -> Iterator[None]:
    """Switch the model to evaluation and give every module its own mode back afterwards, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """The same items with a progress bar on standard error, which stays silent unless that is a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=description, total=total, disable=None, leave=False)
