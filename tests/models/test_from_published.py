import pytest
import torch

import vrwkv
from vrwkv import InputError

SMALL = {"img_size": 16, "patch_size": 8, "embed_dims": 64, "depth": 2}


def test_every_published_argument_has_its_place() -> None:
    model = vrwkv.from_published(
        {
            "kind": "vrwkv",
            "img_size": 32,
            "patch_size": 8,
            "in_channels": 4,
            "out_indices": [1, 3],
            "drop_rate": 0.1,
            "embed_dims": 32,
            "depth": 3,
            "drop_path_rate": 0.2,
            "channel_gamma": 0.125,
            "shift_pixel": 2,
            "shift_mode": "q_shift",
            "init_mode": "local",
            "post_norm": True,
            "key_norm": True,
            "init_values": 0.5,
            "hidden_rate": 3,
            "final_norm": False,
            "interpolate_mode": "bicubic",
            "with_cp": True,
            "pretrained": None,
            "init_cfg": None,
        }
    )
    block = model.blocks[2]
    assert model.patch_embed.proj.weight.shape == (32, 4, 8, 8)
    assert model.pos_embed.shape == (1, 16, 32)
    assert model.pos_drop.p == 0.1
    assert len(model.blocks) == 3
    assert block.drop_path1.drop_prob == pytest.approx(0.2)
    assert (block.channel_mix.token_shift.channel_gamma, block.spatial_mix.token_shift.shift_pixel) == (0.125, 2)
    assert block.spatial_mix.decay.eq(1).all()
    assert block.post_norm
    assert block.spatial_mix.key_norm.weight.shape == (32,)
    assert block.channel_mix.key_norm.weight.shape == block.channel_mix.key.weight.shape[:1] == (96,)
    assert block.ls1.gamma.eq(0.5).all()
    assert isinstance(model.norm, torch.nn.Identity)
    assert model.grad_checkpointing
    assert model.num_classes == 0


def test_defaults_are_the_published_classes_own() -> None:
    sizes = {kind: vrwkv.from_published({"kind": kind, "depth": 1}) for kind in ("vrwkv", "vrwkv6", "clip_image")}
    assert [model.embed_dim for model in sizes.values()] == [256, 256, 640]
    assert sizes["vrwkv6"].blocks[0].spatial_mix.num_heads == 4
    assert sizes["clip_image"].blocks[0].spatial_mix.num_heads == 8
    assert sizes["clip_image"].blocks[0].channel_mix.key.weight.shape == (3200, 640)


def test_class_token() -> None:
    model = vrwkv.from_published({"kind": "vrwkv6", "with_cls_token": True, "output_cls_token": False, **SMALL})
    assert model.forward_features(torch.zeros(1, 3, 16, 16)).shape == (1, 5, 64)
    assert "cls_token" in vrwkv.to_published(model)
    assert vrwkv.from_published({"kind": "vrwkv6", "with_cls_token": False, **SMALL}).cls_token is None


def test_formula_device_and_dtype() -> None:
    model = vrwkv.from_published({"kind": "vrwkv", **SMALL}, formula="published", device="meta", dtype=torch.bfloat16)
    assert model.blocks[0].spatial_mix.formula == "published"
    assert model.pos_embed.is_meta
    assert model.pos_embed.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"embed_dims": 64}, "kind must be one of"),
        ({"kind": "vit"}, r"kind must be one of \['clip_image', 'vrwkv', 'vrwkv6'\], not 'vit'"),
        ({"kind": "vrwkv", "embed_dim": 64}, "'embed_dim' is unknown; did you mean 'embed_dims'"),
        ({"kind": "vrwkv", "hidden_ratio": 4}, "did you mean 'hidden_rate'"),
        ({"kind": "vrwkv", "patch": 4}, "did you mean 'patch_size'"),
    ],
)
def test_unknown_arguments(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vrwkv.from_published(config)


def test_weights_are_loaded_strictly() -> None:
    config = {"kind": "vrwkv", **SMALL}
    published = vrwkv.to_published(vrwkv.from_published(config))
    torch.testing.assert_close(vrwkv.to_published(vrwkv.from_published(config, published)), published, rtol=0, atol=0)
    del published["ln1.bias"]
    with pytest.raises(InputError, match=r"1 missing: norm\.bias"):
        vrwkv.from_published(config, published)
