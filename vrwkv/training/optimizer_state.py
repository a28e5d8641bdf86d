"""An optimiser's state as named tensors and JSON: by parameter name, so that it survives a change of order."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.training.distributed import unwrap_model


def flatten_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors and plain values.

    Returns:
        Tensors named `state/<parameter>/<key>`, and a JSON-ready dict: `groups` (hyperparameters and parameter names of
        each group) and `values` (state that is not a tensor, by parameter and key).
    """
    state = optimizer.state_dict()
    names = _names_by_index(model, optimizer)
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"state/{names[index]}/{key}"] = value
            else:
                values.setdefault(names[index], {})[key] = _plain_number(value, key)
    groups = [
        {
            **{key: _plain_number(value, key) for key, value in group.items() if key != "params"},
            "parameters": [names[index] for index in group["params"]],
        }
        for group in state["param_groups"]
    ]
    return tensors, {"groups": groups, "values": values}


def restore_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
    source: str,
) -> None:
    """Give an optimiser over the same parameters the state that `flatten_optimizer` took from another.

    Raises:
        InputError: other parameters, or other groups of them.
    """
    names = _names_by_index(model, optimizer)
    own = optimizer.state_dict()["param_groups"]
    own_names = [[names[index] for index in group["params"]] for group in own]
    saved_names = [group["parameters"] for group in plain["groups"]]
    if [sorted(group) for group in own_names] != [sorted(group) for group in saved_names]:
        raise InputError(
            f"the optimizer state in {source} is of other parameter groups (sizes {[len(g) for g in saved_names]}, "
            f"here {[len(g) for g in own_names]}): the model or the decay settings differ"
        )
    index_of = {name: index for index, name in names.items()}
    state: dict[int, dict[str, Any]] = {}
    for flat_name, tensor in tensors.items():
        name, _, key = flat_name.removeprefix("state/").rpartition("/")
        state.setdefault(index_of[name], {})[key] = tensor
    for name, entries in plain["values"].items():
        state.setdefault(index_of[name], {}).update({key: _like_saved(value) for key, value in entries.items()})
    groups = [
        {**{key: _like_saved(value) for key, value in saved.items() if key != "parameters"}, "params": group["params"]}
        for saved, group in zip(plain["groups"], own, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _names_by_index(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """Name of the parameter behind each index of `optimizer.state_dict()`: groups in order, parameters in order."""
    names = {id(p): name.replace("_orig_mod.", "") for name, p in unwrap_model(model).named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {index: names[id(parameter)] for index, parameter in enumerate(parameters)}


def _plain_number(value: Any, key: str) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain_number(entry, key) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"a checkpoint cannot hold '{key}' of this optimizer (optim.name): it is a {type(value).__name__}")


def _like_saved(value: Any) -> Any:
    return tuple(_like_saved(entry) for entry in value) if isinstance(value, list) else value
