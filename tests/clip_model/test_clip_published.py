"""Published RWKV-CLIP names and shapes, in both directions."""

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor, nn

import rwkv_clip
from rwkv_clip import ModelConfig
from rwkv_clip.model import ImageTowerConfig, TextTowerConfig
from rwkv_clip.published import open_clip_config, text_to_published
from vrwkv import InputError


def tiny(seed: int = 0, **kwargs: object) -> nn.Module:
    torch.manual_seed(seed)
    image = ImageTowerConfig(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, mlp_ratio=3)
    text = TextTowerConfig(depth=2, num_heads=2, mlp_ratio=3)
    model = rwkv_clip.create_model(ModelConfig(**{"embed_dim": 32, "image": image, "text": text, **kwargs})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return rwkv_clip.to_published(tiny())


def assert_same(model: nn.Module, other: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def mixer_shapes(heads: int) -> dict[str, tuple[int, ...]]:
    return {
        **{f"att.time_maa_{role}": (1, 1, 640) for role in "xwkvrg"},
        "att.time_maa_w1": (640, 160),
        "att.time_maa_w2": (5, 32, 640),
        "att.time_decay": (1, 1, 640),
        "att.time_decay_w1": (640, 64),
        "att.time_decay_w2": (64, 640),
        "att.time_faaaa": (heads, 640 // heads),
        **{f"att.{matrix}.weight": (640, 640) for matrix in ("key", "value", "receptance", "gate", "output")},
        **{f"{norm}.{part}": (640,) for norm in ("att.ln_x", "ln1", "ln2") for part in ("weight", "bias")},
    }


def published_b(patch: int) -> dict[str, tuple[int, ...]]:
    """Every key of a released checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "image_model.pos_embed": (1, (224 // patch) ** 2, 640),
        "image_model.patch_embed.projection.weight": (640, 3, patch, patch),
        "image_model.patch_embed.projection.bias": (640,),
        "text_model.emb.weight": (49408, 640),
    }
    for norm in ("image_model.ln1", "image_model.layers.0.ln0", "text_model.ln_out", "text_model.blocks.0.ln0"):
        shapes |= {f"{norm}.weight": (640,), f"{norm}.bias": (640,)}
    for prefix, layers, heads, hidden, mix in (
        ("image_model.layers", 12, 8, 3200, "spatial_mix"),
        ("text_model.blocks", 6, 10, 2240, "time_maa"),
    ):
        layer_shapes = {
            **mixer_shapes(heads),
            **{f"ffn.{mix}_{role}": (1, 1, 640) for role in "kr"},
            "ffn.key.weight": (hidden, 640),
            "ffn.receptance.weight": (640, 640),
            "ffn.value.weight": (640, hidden),
        }
        shapes |= {f"{prefix}.{layer}.{key}": shape for layer in range(layers) for key, shape in layer_shapes.items()}
    return shapes


@pytest.mark.parametrize(("patch", "parameters"), [(32, 149_561_601), (16, 148_181_121)])
def test_released_sizes(patch: int, parameters: int) -> None:
    with torch.device("meta"):
        model = open_clip.create_model(f"RWKV-CLIP-B-{patch}", device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert not list(model.buffers())
    shapes = {name: tuple(tensor.shape) for name, tensor in rwkv_clip.to_published(model).items()}
    assert shapes == published_b(patch)
    assert len(shapes) == 517


@pytest.mark.parametrize("patch", [32, 16])
def test_architecture_is_read_off_the_shapes(patch: int) -> None:
    state_dict = {name: torch.empty(shape, device="meta") for name, shape in published_b(patch).items()}
    config = open_clip_config(state_dict)
    with torch.device("meta"):
        read = rwkv_clip.create_model(config)
        named = open_clip.create_model(f"RWKV-CLIP-B-{patch}", device="meta")
    found, expected = ({n: t.shape for n, t in model.state_dict().items()} for model in (read, named))
    assert found == expected
    assert (read.context_length, read.visual.image_size) == (77, (224, 224))


def test_our_names_and_shapes_come_back(published: dict[str, Tensor]) -> None:
    other = tiny(1)
    rwkv_clip.load_published(other, published)
    assert_same(other, tiny())
    again = rwkv_clip.to_published(other)
    assert list(again) == list(published)
    torch.testing.assert_close(again, published, rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("legacy", [False, True])
def test_released_files(prefix: str, legacy: bool, published: dict[str, Tensor], tmp_path: Path) -> None:
    """A bare dictionary from a wrapped model, in which the text tower's decays and bonuses are bfloat16."""
    path, rounded = tmp_path / "model_31.pt", dict(published)
    for name in rounded:
        if name.startswith("text_model") and name.endswith((".time_decay", ".time_faaaa")):
            rounded[name] = rounded[name].bfloat16()
    assert sum(tensor.dtype == torch.bfloat16 for tensor in rounded.values()) == 4
    contents = {prefix + name: tensor for name, tensor in rounded.items()}
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    other = tiny(1)
    rwkv_clip.load_published(other, path)
    for name, tensor in rwkv_clip.to_published(other).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, rounded[name].float()), name


def test_every_misfit_is_listed(published: dict[str, Tensor]) -> None:
    broken = dict(published)
    del broken["logit_scale"], broken["text_model.ln_out.bias"]
    broken["text_model.pos_emb"] = torch.zeros(1, 77, 32)
    broken["image_model.pos_embed"] = torch.zeros(1, 9, 32)
    broken["text_model.blocks.0.att.time_faaaa"] = torch.zeros(32)
    with pytest.raises(InputError) as caught:
        rwkv_clip.load_published(tiny(), broken)
    message = str(caught.value)
    assert "\n" not in message
    assert "2 missing: logit_scale, text.norm.bias" in message
    assert "1 unexpected: text_model.pos_emb" in message
    assert "2 of another shape: visual.trunk.pos_embed (1, 9, 32) for (1, 16, 32)" in message
    assert "text.blocks.0.time_mix.bonus (32,) for (2, 16)" in message


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tiny(init_bias=-10.0), "published models have no logit_bias"),
        (lambda: tiny(image=projected()), r"published models have no visual\.head\.proj\.weight"),
        (lambda: tiny(image=transformer()), "only a VisionRWKV has a published form, not VisionTransformer"),
    ],
)
def test_models_without_a_published_form(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rwkv_clip.to_published(build())


def projected() -> ImageTowerConfig:
    return ImageTowerConfig(
        image_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=1, mlp_ratio=2, projection=True
    )


def transformer() -> ImageTowerConfig:
    return ImageTowerConfig("vit_tiny_patch16_224", image_size=32, embed_dim=32, depth=1, num_heads=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_model.pos_embed": None}, "image_model.pos_embed is missing"),
        ({"text_model.emb.weight": None}, "text_model.emb.weight is missing"),
        ({"text_model.emb.weight": torch.zeros(3)}, "another number of dimensions"),
        ({"image_model.layers.0.att.time_faaaa": torch.zeros(())}, "another number of dimensions"),
    ],
)
def test_other_state_dicts_are_no_rwkv_clip(
    change: dict[str, Tensor | None], message: str, published: dict[str, Tensor]
) -> None:
    changed = {name: tensor for name, tensor in {**published, **change}.items() if tensor is not None}
    with pytest.raises(InputError, match=f"these are not RWKV-CLIP weights: .*{message}"):
        open_clip_config(changed)


TEXT_CONFIG = {"kind": "clip_text", "n_embd": 64, "n_layer": 2, "head_size": 32, "dim_ffn": 96, "vocab_size": 40}


def test_text_from_published() -> None:
    passed_over = {"head_qk": 0, "tiny_att_dim": 0, "tiny_att_layer": -999, "pos_emb": 0, "dropout": 0.0, "dim_att": 64}
    tower = rwkv_clip.text_from_published({**TEXT_CONFIG, **passed_over, "ctx_len": 20, "head_size_divisor": 8})
    assert tower.context_length == 20
    assert tower.blocks[1].time_mix.num_heads == 2
    assert tower.blocks[0].channel_mix.key.weight.shape == (96, 64)
    published = text_to_published(tower)
    other = rwkv_clip.text_from_published(TEXT_CONFIG, {f"module.{name}": t for name, t in published.items()})
    torch.testing.assert_close(text_to_published(other), published, rtol=0, atol=0)
    defaults = rwkv_clip.text_from_published({"n_embd": 640, "n_layer": 1}, device="meta", dtype=torch.bfloat16)
    assert defaults.blocks[0].channel_mix.key.weight.shape == (2240, 640)
    assert defaults.token_embedding.weight.shape == (49408, 640)
    assert defaults.token_embedding.weight.dtype == torch.bfloat16
    assert defaults.norm.weight.is_meta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vrwkv"}, "kind must be 'clip_text', not 'vrwkv'"),
        ({"n_layers": 2}, "'n_layers' is unknown; did you mean 'n_layer'"),
        ({"head_qk": 256}, "'head_qk' must be 0"),
        ({"pos_emb": 77}, "'pos_emb' must be 0"),
        ({"dim_att": 32}, "must equal n_embd"),
        ({"head_size_divisor": 4}, "must equal n_embd and 8"),
        ({"n_embd": None}, "published arguments n_embd are missing"),
        ({"head_size": 48}, "head_size 48 must divide n_embd 64"),
        ({"dim_ffn": 100}, "dim_ffn 100 be a multiple of 32"),
    ],
)
def test_other_text_configurations_are_refused(change: dict[str, object], message: str) -> None:
    config = {name: value for name, value in {**TEXT_CONFIG, **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        rwkv_clip.text_from_published(config)
