"""Published Vision-RWKV classifiers and adapter backbones as timm model folders, with the checks of each file."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.models import registry
from vrwkv.models.conversion import Conversion, convert
from vrwkv.models.formula_agreement import agreement_range
from vrwkv.models.published import names_in_files, published_names, strip_prefixes
from vrwkv.models.published_architecture import (
    architecture_name,
    checked_name,
    constructor_arguments,
    empty_model,
    is_adapter,
)
from vrwkv.models.published_files import ADAPTERS, CLASSIFIERS, PublishedFile
from vrwkv.models.vision_rwkv import VisionRWKV

# Pixels of the images that the adapters were trained on: Mask R-CNN's, padded to whole strides, and UperNet's.
DETECTION_SIZE, SEGMENTATION_SIZE = (800, 1344), (512, 512)
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def convert_vision(
    state_dict: Mapping[str, Tensor],
    where: str,
    *,
    model_name: str | None = None,
    formula: str = "paper",
    container: str | None = None,
) -> tuple[Conversion, dict[str, Any]]:
    """Convert a published classifier, or the backbone of an adapter, whose other parts are put aside.

    Args:
        state_dict: under the names of the file.
        where: what the file is called in an error.
        model_name: timm name of the model, or of the one that it is a variant of; by default read off the shapes.
        formula: "paper" or "published" Bi-WKV, for the configuration.
        container: key that the state dict stood under.

    Returns:
        The conversion, and the content of config.json as `timm.create_model("local-dir:…")` reads it.

    Raises:
        InputError: an unknown name, another architecture, names or shapes that do not fit.
    """
    stripped = {strip_prefixes(name): tensor for name, tensor in state_dict.items()}
    if model_name is not None:
        checked_name(model_name)
    arguments = constructor_arguments(stripped)
    name = model_name or architecture_name(arguments)
    if arguments["mixer"] == "bi_wkv6" and formula != "paper":
        raise InputError(f"--formula {formula} concerns Bi-WKV; {where} holds a VRWKV6, which has one formula only")
    if formula != "paper":
        arguments["formula"] = formula
    model = empty_model(name, arguments)
    adapter = is_adapter(stripped)
    ours = names_in_files(published_names(model))
    conversion = convert(state_dict, model, ours, where, container=container, keep_other_parts=adapter)
    return conversion, _config(name, model, arguments, _input_size(stripped) if adapter else None)


def _config(
    name: str, model: VisionRWKV, arguments: dict[str, Any], input_size: tuple[int, int] | None
) -> dict[str, Any]:
    architecture = name.partition(".")[0]
    known = registry.default_cfgs[architecture]
    alike = [known.cfgs[tag] for tag in known.tags if known.cfgs[tag].num_classes == model.num_classes]
    settings = (alike[0] if alike else known.default).to_dict(remove_source=True)
    channels, native = arguments["in_chans"], empty_model(architecture, {}).patch_embed.img_size
    if input_size is not None:
        settings["input_size"] = (channels, *input_size)
    elif model.patch_embed.img_size != native:
        settings["input_size"] = (channels, *model.patch_embed.img_size)
    settings["num_classes"] = model.num_classes
    return {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "model_args": {key: value for key, value in arguments.items() if key not in ("num_classes", "in_chans")},
        "pretrained_cfg": settings,
    }


def _input_size(stripped: Mapping[str, Tensor]) -> tuple[int, int]:
    return DETECTION_SIZE if _detects(stripped) else SEGMENTATION_SIZE


def _detects(names: Iterable[str]) -> bool:
    return any(name.startswith(("rpn_head.", "roi_head.")) for name in names)


def matching_files(conversion: Conversion, config: Mapping[str, Any]) -> list[PublishedFile]:
    """The released files that have this architecture and these numbers of tensors and parameters."""
    sizes = adapter_sizes(conversion) if conversion.other_parts else model_sizes(conversion)
    candidates: Iterable[PublishedFile] = CLASSIFIERS
    if conversion.other_parts:
        detects = _detects(conversion.other_parts)
        candidates = [file for file in ADAPTERS if file.name.startswith("mask_rcnn") == detects]
    return [
        file
        for file in candidates
        if file.model.partition(".")[0] == config["architecture"] and (file.tensors, file.parameters) == sizes
    ]


def model_sizes(conversion: Conversion) -> tuple[int, int]:
    """Numbers of tensors and of parameters of our model."""
    return len(conversion.tensors), sum(tensor.numel() for tensor in conversion.tensors.values())


def adapter_sizes(conversion: Conversion) -> tuple[int, int]:
    """Numbers of tensors and of parameters below `backbone.`; running statistics are tensors, not parameters."""
    parts = {name: tensor for name, tensor in conversion.other_parts.items() if "backbone." in name}
    parameters = sum(tensor.numel() for name, tensor in parts.items() if not name.endswith(_STATISTICS))
    tensors, trunk_parameters = model_sizes(conversion)
    return tensors + len(parts), trunk_parameters + parameters


def check_decays(conversion: Conversion, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """What the decays of a file mean for the choice of formula.

    Returns:
        A line with their range, and a warning where some lie outside of the range in which both formulas agree.
    """
    decays = {name: tensor for name, tensor in conversion.tensors.items() if name.endswith("spatial_mix.decay")}
    values = torch.stack(list(decays.values()))
    line = f"{values.min():.2f} to {values.max():.2f}"
    if not values.isfinite().all():
        raise InputError("the decays of the checkpoint are not finite: it is damaged or its training diverged")
    if config["model_args"]["mixer"] == "bi_wkv6":
        return f"{line} (VRWKV6 has one formula only)", None
    patch = config["model_args"]["patch_size"]
    _, height, width = config["pretrained_cfg"]["input_size"]
    num_tokens = -(-height // patch) * -(-width // patch)
    low, high = agreement_range(num_tokens)
    line += f"; paper and published formulas agree within 1 % from {low:g} to {high:g} at {num_tokens} tokens"
    outside = ((values < low) | (values > high)).sum(1)
    if not outside.any():
        return f"{line}: all inside", None
    layers = ", ".join(str(layer) for layer in outside.nonzero().flatten().tolist())
    warning = (
        f"{int(outside.sum())} of {values.numel()} decays (layers {layers}) lie outside of {low:g} to {high:g}, where "
        "the formulas differ: --formula published computes what the released kernels do"
    )
    return line, warning
