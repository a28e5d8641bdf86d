"""Which parameters decay, in which groups they go, and the optimiser from timm's registry."""

import difflib
import fnmatch
import re
from typing import Any

import timm.optim
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from vrwkv.errors import InputError
from vrwkv.training.config import OptimConfig


def undecayed_parameters(model: nn.Module, decay: str) -> set[str]:
    """Names of the parameters without weight decay.

    Args:
        model: not wrapped by DDP or torch.compile.
        decay: `timm`: 1-D parameters, biases and what `no_weight_decay()` names (patterns allowed). `published`: the
            parameters of norm layers and biases only, as mmpretrain's `norm_decay_mult=0, bias_decay_mult=0`; decay,
            bonus, mixes, layer scales and positions do decay. `published_large`: the layer scales' as well, as VRWKV-L
            was fine-tuned. `all`: none. `none`: every parameter.
    """
    parameters = dict(model.named_parameters())
    if decay == "all":
        return set()
    if decay == "none":
        return set(parameters)
    if decay in ("published", "published_large"):
        exempt = _is_norm if decay == "published" else _is_norm_or_layer_scale
        norms = {id(p) for m in model.modules() if exempt(m) for p in m.parameters(recurse=False)}
        return {name for name, p in parameters.items() if id(p) in norms or name.rpartition(".")[2] == "bias"}
    patterns = _no_weight_decay(model)
    return {
        name
        for name, parameter in parameters.items()
        if parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatch.fnmatchcase(name, p) for p in patterns)
    }


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group, with `weight_decay` and, under layer decay, `lr_scale`.

    Raises:
        InputError: nothing to train, or layer decay for a model that does not say what its layers are.
    """
    undecayed = undecayed_parameters(model, config.decay)
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("the model has no trainable parameter: every one is frozen")
    if config.layer_decay is not None:
        if not hasattr(model, "group_matcher"):
            raise InputError(f"optim.layer_decay needs a model with group_matcher(): {type(model).__name__} has none")
        return param_groups_layer_decay(
            model,
            weight_decay=config.weight_decay,
            no_weight_decay_list=undecayed,
            weight_decay_exclude_1d=False,
            layer_decay=config.layer_decay,
        )
    groups = [
        {"params": [p for name, p in trainable if name in undecayed], "weight_decay": 0.0},
        {"params": [p for name, p in trainable if name not in undecayed], "weight_decay": config.weight_decay},
    ]
    return [group for group in groups if group["params"]]


def create_optimizer(model: nn.Module, config: OptimConfig, lr: float) -> torch.optim.Optimizer:
    """The optimiser `config.name` of timm over `parameter_groups(model, config)`.

    Raises:
        InputError: an optimiser that timm does not know or that cannot run here.
    """
    name = config.name.lower()
    known: list[str] = [str(entry) for entry in timm.optim.list_optimizers()]
    if name.removeprefix("lookahead_") not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
        raise InputError(f"unknown optimizer '{config.name}' (optim.name){hint}")
    options: dict[str, Any] = {
        key: value for key, value in (("betas", config.betas), ("eps", config.eps)) if value is not None
    }
    groups = parameter_groups(model, config)
    if timm.optim.get_optimizer_class(name.removeprefix("lookahead_"), bind_defaults=False) in (
        torch.optim.Adam,
        torch.optim.AdamW,
    ):
        options["fused"] = True  # one pass over memory instead of ten, on CPUs and on GPUs
    try:
        return create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=0.0, **options)
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        raise InputError(f"optimizer '{config.name}' (optim.name) cannot be used: {error}") from None


def _is_norm(module: nn.Module) -> bool:
    """Whether the class is a norm layer by name: LayerNorm, RMSNorm, BatchNorm2d, GroupNorm1, LayerNorm2d, ..."""
    return any(re.search(r"(Norm|NormAct)(\dd?)?$", base.__name__) for base in type(module).__mro__)


def _is_norm_or_layer_scale(module: nn.Module) -> bool:
    return _is_norm(module) or any(base.__name__.startswith("LayerScale") for base in type(module).__mro__)


def _no_weight_decay(module: nn.Module, prefix: str = "") -> set[str]:
    """Patterns of the outermost modules that answer `no_weight_decay()`, each with the module's own name before it."""
    if hasattr(module, "no_weight_decay"):
        return {prefix + pattern for pattern in module.no_weight_decay()}  # type: ignore[operator]
    return {p for name, child in module.named_children() for p in _no_weight_decay(child, f"{prefix}{name}.")}
