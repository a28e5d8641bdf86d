"""Whether somebody looks on when a module is called, or keeps what passes through it."""

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def has_hooks(*modules: nn.Module) -> bool:
    """Whether any of the modules has hooks, its own or those on all modules, so that it must be called as it stands."""
    return has_global_hooks() or any(has_own_hooks(module) for module in modules)


def has_own_hooks(module: nn.Module) -> bool:
    """Whether hooks have been registered on this very module."""
    own = module.__dict__  # several times as fast as its attributes
    return bool(
        own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    )


def has_global_hooks() -> bool:
    """Whether there are hooks on all modules there are."""
    return _has_any_global_hook()


def may_keep(module: nn.Module) -> bool:
    """Whether the module's inputs or outputs may be read later: by hooks, or by a module that is none of ours."""
    return (
        has_hooks(module)
        or "forward" in module.__dict__
        or not type(module).__module__.startswith(_KNOWN_TO_KEEP_NOTHING)
    )


_KNOWN_TO_KEEP_NOTHING = ("torch.nn.", "timm.layers.", "vrwkv.layers.")
