"""Models as folders and repositories in timm's format, each with a model card that says how to load it again.

timm builds what it loads from its registry, which holds our names only after `import vrwkv`: its own card cannot know.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timm.models import push_to_hf_hub as push_folder
from timm.models import save_for_hf as save_folder
from timm.models._hub import generate_readme
from torch import nn

from vrwkv.atomic_write import atomic_write
from vrwkv.errors import InputError
from vrwkv.models.registry import registered_position_size

_CITATIONS = {
    "arXiv:2403.02308": """@article{duan2024vision,
  title={Vision-RWKV: Efficient and Scalable Visual Perception with RWKV-Like Architectures},
  author={Duan, Yuchen and Wang, Weiyun and Chen, Zhe and Zhu, Xizhou and Lu, Lewei and Lu, Tong and Qiao, Yu and
          Li, Hongsheng and Dai, Jifeng and Wang, Wenhai},
  journal={arXiv preprint arXiv:2403.02308},
  year={2024}
}""",
    "arXiv:2406.06973": """@article{gu2024rwkv,
  title={RWKV-CLIP: A Robust Vision-Language Representation Learner},
  author={Gu, Tiancheng and Yang, Kaicheng and An, Xiang and Feng, Ziyong and Liu, Dongnan and Cai, Weidong and
          Deng, Jiankang},
  journal={arXiv preprint arXiv:2406.06973},
  year={2024}
}""",
}


def model_card(model: nn.Module, address: str, description: str | None = None) -> dict[str, Any]:
    """The content of a model card, as `timm.models.push_to_hf_hub` takes it.

    Args:
        model: a model from `timm.create_model`.
        address: what `timm.create_model` loads it by, "hf-hub:owner/name" or "local-dir:folder".
        description: first sentences of the card; by default the model's name and kind.

    Raises:
        InputError: `model` was not built by `timm.create_model`, so that no one could build it again.
    """
    config = _config(model)
    architecture, task = config["architecture"], _task(model)
    _, height, width = _input_size(model)
    kind = "classifier" if model.num_classes else "backbone without a classifier"
    paper = config.get("paper_ids") or ""
    details: dict[str, Any] = {
        "Model Type": f"Image {kind}, tokens mixed in linear time (RWKV)",
        "Parameters (M)": f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}",
        "Image size": f"{width} x {height} pixels{', others accepted' if model.dynamic_img_size else ''}",
        "Features": model.num_features,
    }
    if model.num_classes:
        details["Classes"] = model.num_classes
    if paper.startswith("arXiv:"):
        details["Paper"] = f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
    if config.get("origin_url"):
        details["Original"] = config["origin_url"]
    return {
        "tags": [task, "timm", "vrwkv"],
        "license": config.get("license") or "apache-2.0",
        "description": description or f"`{architecture}`, an image {kind} for PyTorch and timm.",
        "details": details,
        "usage": _usage(model, address),
        **({"citation": _CITATIONS[paper]} if paper in _CITATIONS else {}),
    }


def save_for_hf(model: nn.Module, folder: str | Path, description: str | None = None, **options: Any) -> None:
    """Write model.safetensors, config.json and a model card (README.md) for `create_model("local-dir:folder")`.

    Args:
        model: a model from `timm.create_model`.
        folder: made if need be; files of these names are replaced.
        description: as in `model_card`.
        options: further arguments of `timm.models.save_for_hf`. Versions of timm that do not note constructor arguments
            (1.0.26 does not) need `model_args`: those in which the model differs from the registered one.

    Raises:
        InputError: as `model_card`, or `folder` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a model is saved as a folder")
    card = model_card(model, f"local-dir:{folder.resolve().name}", description)
    with _present_input_size(model):
        save_folder(model, str(folder), **{"safe_serialization": True, **options})
    atomic_write(folder / "README.md", generate_readme(card, folder.resolve().name, _task(model)))


def push_to_hf_hub(model: nn.Module, repo_id: str, description: str | None = None, **options: Any) -> Any:
    """Upload what `save_for_hf` writes to the Hugging Face hub; a card that is already there stays.

    Args:
        model: a model from `timm.create_model`.
        repo_id: "owner/name", or "name" for the logged-in user's.
        description: as in `model_card`.
        options: further arguments of `timm.models.push_to_hf_hub`, such as `private` or `token`.

    Returns:
        What the hub says of the commit.

    Raises:
        InputError: as `model_card`.
    """
    card = model_card(model, f"hf-hub:{repo_id}", description)
    defaults = {"model_card": card, "task_name": _task(model), "safe_serialization": True}
    with _present_input_size(model):
        return push_folder(model, repo_id, **{**defaults, **options})


def _config(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "pretrained_cfg", None)
    if not config or not config.get("architecture"):
        raise InputError(f"this {type(model).__name__} is not from timm.create_model, which alone could build it again")
    return config


def _input_size(model: Any) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a model is for now: `set_input_size` or `img_size` count.

    A model at its registered size is for the images that its released weights are for.
    """
    config = _config(model)
    channels, *registered = config.get("input_size") or (model.in_chans, *model.patch_embed.img_size)
    positions = registered_position_size(config["architecture"])
    built = tuple(registered) if positions is None else (positions, positions)
    if model.patch_embed.img_size != built:
        registered = model.patch_embed.img_size
    return channels, *getattr(model, "moved_to_size", registered)


@contextmanager
def _present_input_size(model: nn.Module) -> Iterator[None]:
    """Have timm write down the size that a model's images have now, where it would name that of the released weights.

    timm's `create_transform` of the model that is loaded again goes by it.
    """
    config: Any = _config(model)
    model.pretrained_cfg = {**config, "input_size": _input_size(model)}  # type: ignore[assignment]
    try:
        yield
    finally:
        model.pretrained_cfg = config


def _task(model: nn.Module) -> str:
    return "image-classification" if model.num_classes else "image-feature-extraction"


def _usage(model: nn.Module, address: str) -> str:
    outputs = "logits" if model.num_classes else "features"
    return f"""
```python
import timm
import vrwkv  # tells timm of this architecture
from PIL import Image

model = timm.create_model("{address}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
{outputs} = model(transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0))
```
"""
