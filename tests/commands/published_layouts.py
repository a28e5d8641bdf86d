"""Files laid out as the released ones, with random weights: names, shapes, prefixes, containers, dtypes."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import vrwkv

StateDict = dict[str, Tensor]
SMALL: dict[str, Any] = {"img_size": 48, "embed_dim": 16, "depth": 2, "num_classes": 5}
LARGE: dict[str, Any] = {**SMALL, "head_hidden_dim": 24}


def random_model(name: str, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(name, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def below_backbone(model: nn.Module) -> StateDict:
    published = vrwkv.to_published(model)
    return OrderedDict((n if n.startswith("head.") else f"backbone.{n}", t) for n, t in published.items())


def mmcv(state_dict: StateDict) -> dict[str, Any]:
    """As mmcv's runner saves it; the best score of its hook is a numpy scalar."""
    meta = {"mmcls_version": "0.25.0", "epoch": 300, "CLASSES": ("tench", "goldfish"), "hook_msgs": {}}
    meta["hook_msgs"] = {"best_score": np.float64(75.1), "best_ckpt": "best.pth"}
    return {"meta": meta, "state_dict": state_dict, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]}}


def internimage(model: nn.Module, averaged: nn.Module) -> dict[str, Any]:
    """As the fine-tuning code of VRWKV-L saves it, its pickled yacs configuration included."""
    yacs = pytest.importorskip("yacs.config")
    return {
        "state_dict": vrwkv.to_published(model),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
        "lr_scheduler": {"base_values": [1e-5]},
        "max_accuracy": 86.0,
        "epoch": 19,
        "config": yacs.CfgNode({"MODEL": {"TYPE": "vrwkv"}, "TRAIN": {"EPOCHS": 20}}),
        "model_ema": vrwkv.to_published(averaged),
        "amp": {"scale": 65536.0},
    }


def adapter_parts(dim: int, heads: int, ratio: float, points: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a ViT-Adapter has beside its backbone, below `backbone.`."""
    shapes: dict[str, tuple[int, ...]] = {"level_embed": (3, dim), "up.weight": (dim, dim, 2, 2), "up.bias": (dim,)}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def add_batch_norm(name: str, width: int) -> None:
        add(name, width)
        shapes.update({f"{name}.running_mean": (width,), f"{name}.running_var": (width,)})
        shapes[f"{name}.num_batches_tracked"] = ()

    def add_attention(name: str, levels: int) -> None:
        inner = int(dim * ratio)
        add(f"{name}.sampling_offsets", heads * levels * points * 2, dim)
        add(f"{name}.attention_weights", heads * levels * points, dim)
        add(f"{name}.value_proj", inner, dim)
        add(f"{name}.output_proj", dim, inner)

    def add_extractor(name: str) -> None:
        for norm in ("query_norm", "feat_norm", "ffn_norm"):
            add(f"{name}.{norm}", dim)
        add_attention(f"{name}.attn", 1)
        add(f"{name}.ffn.fc1", dim // 4, dim)
        add(f"{name}.ffn.dwconv.dwconv", dim // 4, 1, 3, 3)
        add(f"{name}.ffn.fc2", dim, dim // 4)

    for layer, channels in ((0, 3), (3, 64), (6, 64)):
        add(f"spm.stem.{layer}", 64, channels, 3, 3, bias=False)
        add_batch_norm(f"spm.stem.{layer + 1}", 64)
    for index, (before, after) in enumerate(((64, 128), (128, 256), (256, 256)), start=2):
        add(f"spm.conv{index}.0", after, before, 3, 3, bias=False)
        add_batch_norm(f"spm.conv{index}.1", after)
    for index, channels in enumerate((64, 128, 256, 256), start=1):
        add(f"spm.fc{index}", dim, channels, 1, 1)
        add_batch_norm(f"norm{index}", dim)
    for index in range(4):
        injector = f"interactions.{index}.injector"
        shapes[f"{injector}.gamma"] = (dim,)
        add(f"{injector}.query_norm", dim)
        add(f"{injector}.feat_norm", dim)
        add_attention(f"{injector}.attn", 3)
        add_extractor(f"interactions.{index}.extractor")
    for index in range(2):
        add_extractor(f"interactions.3.extra_extractors.{index}")
    return shapes


def adapter(head: str) -> dict[str, Any]:
    """An UperNet ("decode_head") or Mask R-CNN ("roi_head") whose backbone is a small VRWKV with layer scale."""
    model = random_model("vrwkv_tiny_patch16_224", **{**SMALL, "num_classes": 0}, init_values=1.0, final_norm=False)
    state = below_backbone(model)
    generator = torch.Generator().manual_seed(1)
    for name, shape in adapter_parts(16, 2, 1.0).items():
        counted = name.endswith("num_batches_tracked")
        state[f"backbone.{name}"] = torch.tensor(7) if counted else torch.randn(shape, generator=generator)
    state[f"{head}.conv_seg.weight"] = torch.randn(3, 8, 1, 1, generator=generator)
    return {"meta": {"PALETTE": [[1, 2, 3]], "CLASSES": ("wall",)}, "state_dict": state}


LAYOUTS: dict[str, tuple[str, Any]] = {
    "VRWKV-T": ("vrwkv_tiny_patch16_224", lambda name: mmcv(below_backbone(random_model(name, **SMALL)))),
    "VRWKV-S": ("vrwkv_small_patch16_224", lambda name: mmcv(below_backbone(random_model(name, **SMALL)))),
    "VRWKV-B": ("vrwkv_base_patch16_224", lambda name: mmcv(below_backbone(random_model(name, **SMALL)))),
    "VRWKV-L": (
        "vrwkv_large_patch16_384",
        lambda name: internimage(random_model(name, 1, **LARGE), random_model(name, **LARGE)),
    ),
    "VRWKV-L 22k": ("vrwkv_large_patch16_384", lambda name: {"model": vrwkv.to_published(random_model(name, **LARGE))}),
    "VRWKV6": (
        "vrwkv6_tiny_patch16_224",
        lambda name: mmcv(below_backbone(random_model(name, **{**SMALL, "embed_dim": 64, "num_heads": 1}))),
    ),
    "UperNet": ("vrwkv_tiny_patch16_224", lambda _: adapter("decode_head")),
    "Mask R-CNN": ("vrwkv_tiny_patch16_224", lambda _: adapter("roi_head")),
}


def write(layout: str, path: Path, legacy: bool) -> tuple[str, StateDict]:
    """Write a file of that layout; returns the model's name and the state dict that must come back."""
    name, build = LAYOUTS[layout]
    container = build(name)
    torch.save(container, path, _use_new_zipfile_serialization=not legacy)
    key = next(key for key in ("model_ema", "state_dict", "model") if key in container)
    return name, container[key]
