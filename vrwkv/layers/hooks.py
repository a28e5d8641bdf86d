"""Whether somebody looks on when a module is called."""

from torch import nn


def has_hooks(*modules: nn.Module) -> bool:
    """Whether any of the modules has hooks of its own, so that it must be called as it stands."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )
