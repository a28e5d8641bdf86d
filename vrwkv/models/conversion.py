"""A published state dict as ours, and back to the bit: tensors, and the record of what a file called them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.models.published import check_fit, own_names, own_shape, published_shape, strip_prefixes


@dataclass(frozen=True)
class Record:
    """How a published file stores its weights, as far as our tensors do not say it."""

    container: str | None
    """Key of the container that the state dict stands under; None: the file is the state dict."""
    names: dict[str, str | None]
    """Published name -> our name, in the file's order; None for a tensor that is no part of our model."""
    dtypes: dict[str, str]
    """Of the published tensors that are not float32, by published name."""
    shapes: dict[str, list[int]]
    """Of the published tensors that are not shaped as released files have them, by published name."""

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Record":
        """The record in a JSON object; raises InputError where it is none."""
        try:
            return Record(
                content["container"], dict(content["names"]), dict(content["dtypes"]), dict(content["shapes"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the record of the published file is damaged: {error!r}") from None


@dataclass(frozen=True)
class Conversion:
    """A published state dict, converted."""

    tensors: dict[str, Tensor]
    """Under our names and in our shapes, float32."""
    other_parts: dict[str, Tensor]
    """Tensors of the file that are no part of our model, as they are."""
    record: Record
    """What is needed to go back."""


def convert(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    ours: Mapping[str, str],
    where: str,
    *,
    container: str | None = None,
    keep_other_parts: bool = False,
) -> Conversion:
    """Bring a published state dict under our names; going back is tried out and gives the same bits.

    Args:
        state_dict: the published tensors under their names in the file.
        model: of the architecture that the file is for, on any device; its values are not read.
        ours: published name, prefixes stripped -> our name.
        where: what the file is called in an error.
        container: key that the state dict stood under, for the record.
        keep_other_parts: put tensors that `ours` does not name aside instead of refusing them.

    Raises:
        InputError: names or shapes that are not the model's, or values that float32 cannot hold.
    """
    inside = [name for name in state_dict if not keep_other_parts or strip_prefixes(name) in ours]
    names = own_names(inside, ours)
    tensors = {own: own_shape(name, state_dict[name]) for name, own in names.items()}
    check_fit(model, tensors, where)
    other_parts = {name: tensor for name, tensor in state_dict.items() if name not in names}
    dtypes = {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in state_dict.items()
        if name in names and tensor.dtype != torch.float32
    }
    shapes = {
        name: list(tensor.shape)
        for name, tensor in state_dict.items()
        if name in names and published_shape(strip_prefixes(name), tensors[names[name]]).shape != tensor.shape
    }
    record = Record(container, {name: names.get(name) for name in state_dict}, dtypes, shapes)
    conversion = Conversion({own: tensor.float() for own, tensor in tensors.items()}, other_parts, record)
    changed = [name for name, tensor in revert(conversion).items() if not same_bits(tensor, state_dict[name])]
    if changed:
        raise InputError(f"{where} holds values that float32 cannot hold, in {', '.join(changed[:3])}")
    return conversion


def revert(conversion: Conversion) -> dict[str, Tensor]:
    """The published state dict that a conversion came from: names, order, shapes, dtypes and values.

    Raises:
        InputError: a tensor that the record names is not there.
    """
    record, result = conversion.record, {}
    for name, own in record.names.items():
        tensor = conversion.other_parts.get(name) if own is None else conversion.tensors.get(own)
        if tensor is None:
            raise InputError(f"the record of the published file names {own or name}, which is not among the tensors")
        if own is not None:
            tensor = published_shape(strip_prefixes(name), tensor)
            tensor = tensor.reshape(record.shapes[name]) if name in record.shapes else tensor
            tensor = tensor.to(getattr(torch, record.dtypes.get(name, "float32")))
        result[name] = tensor
    return result


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right)))
