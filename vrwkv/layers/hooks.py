"""Whether somebody looks on when a module is called."""

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def has_hooks(*modules: nn.Module) -> bool:
    """Whether any of the modules has hooks of its own, so that it must be called as it stands."""
    for module in modules:  # not any(): a generator takes longer than what it looks at
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
            return True
    return False


def has_global_hooks() -> bool:
    """Whether there are hooks on all modules there are."""
    return _has_any_global_hook()
