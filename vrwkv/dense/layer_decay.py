"""Learning rates that fall from the last block of a backbone to its first, for mmengine's optimisers."""

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from timm.models import group_parameters
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class RWKVLayerDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Groups parameters by the backbone's own `group_matcher` (released layer decay).

    With L blocks, the patch embedding and positions learn at rate · decay^(L+1), block l at rate · decay^(L-l), all
    else (adapter, neck, heads) at the rate itself. Biases and parameters of one dimension are not decayed, positions
    are.

        optim_wrapper = dict(
            constructor="RWKVLayerDecayOptimizerConstructor", paramwise_cfg=dict(decay_rate=0.9), optimizer=...)

    Args:
        optim_wrapper_cfg: of the optimiser wrapper, as mmengine passes it.
        paramwise_cfg: `decay_rate`, and nothing else.

    Raises:
        ValueError: no decay_rate in (0, 1], or other settings beside it; a model without such a backbone.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        settings = dict(paramwise_cfg or {})
        self.decay_rate = settings.pop("decay_rate", None)
        if self.decay_rate is None or not 0 < self.decay_rate <= 1:
            raise ValueError(f"paramwise_cfg.decay_rate must lie in (0, 1], not {self.decay_rate}")
        if settings:
            raise ValueError(f"paramwise_cfg takes decay_rate only, not {', '.join(settings)}")

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Called by mmengine: append the groups of `module`'s parameters to `params`."""
        backbone: Any = getattr(module, "backbone", None)
        if not hasattr(backbone, "group_matcher"):
            raise ValueError(f"{type(module).__name__} has no backbone with a group_matcher, such as VisionRWKV")
        depth = len(backbone.blocks)
        layers = group_parameters(backbone, backbone.group_matcher(), reverse=True)
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            layer = min(layers.get(name.removeprefix("backbone."), depth + 1), depth + 1)
            if not name.startswith("backbone."):
                layer = depth + 1
            scale = self.decay_rate ** (depth + 1 - layer)
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            group = groups.setdefault((scale, decays), {"params": [], "lr": scale * self.base_lr, "lr_scale": scale})
            group["params"].append(parameter)
            group["weight_decay"] = (self.base_wd or 0.0) if decays else 0.0
        print_log(f"{len(groups)} groups of parameters, layer decay {self.decay_rate}", "current", logging.INFO)
        params.extend(groups.values())
