"""The text tower: how it starts, what it computes from ids, and the surface that open_clip uses."""

import copy
import math
import pickle

import pytest
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from rwkv_clip import TextTower
from rwkv_clip.text.rwkv6_bi import TextChannelMix, TimeMix
from vrwkv import InputError


def published_size(**kwargs: object) -> TextTower:
    torch.manual_seed(0)
    return TextTower(**{"vocab_size": 500, **kwargs})


def small(seed: int = 0, **kwargs: object) -> TextTower:
    """A narrow tower away from its starting values, at which its blocks do nothing."""
    torch.manual_seed(seed)
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2, "context_length": 12, "vocab_size": 50, **kwargs}
    tower = TextTower(**options).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tower


def texts(length: int = 12, batch: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(1, 50, (batch, length))


@pytest.fixture(scope="module")
def fresh() -> TextTower:
    return published_size()


def test_blocks_start_as_the_identity(fresh: TextTower) -> None:
    ids = torch.randint(0, 500, (2, 77))
    torch.testing.assert_close(fresh.forward_features(ids), fresh.norm(fresh.norm_pre(fresh.token_embedding(ids))))
    for block in fresh.blocks:
        for linear in (block.time_mix.output, block.channel_mix.value, block.channel_mix.receptance):
            assert not linear.weight.any()


def test_every_starting_value_is_a_bfloat16(fresh: TextTower) -> None:
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, parameter.bfloat16().float()), name


@pytest.mark.parametrize("layer", range(6))
def test_starting_values_of_a_layer(fresh: TextTower, layer: int) -> None:
    mix, channel = fresh.blocks[layer].time_mix, fresh.blocks[layer].channel_mix
    down, up = layer / 5, 1 - layer / 6
    share = (torch.arange(640, dtype=torch.float64) / 640) ** up
    index = torch.arange(640, dtype=torch.float64)
    expected = {
        "mix_x": 1 - share,
        "mix_w": 1 - share,
        "mix_k": 1 - share,
        "mix_v": 1 - (share + 0.3 * down),
        "mix_r": 1 - share**0.5,
        "mix_g": 1 - share**0.5,
        "decay": -6 + 5 * (index / 639) ** (0.7 + 1.3 * down),
        "bonus": (down * (1 - index / 639) + 0.1 * ((index + 1) % 3 - 1)).view(10, 64),
    }
    for name, values in expected.items():
        assert torch.equal(getattr(mix, name), values.float().bfloat16().float()), name
    assert torch.equal(channel.mix_k, (1 - share).float().bfloat16().float())
    assert torch.equal(channel.mix_r, channel.mix_k)
    assert not mix.mix_down.any()
    assert not mix.decay_down.any()
    for low_rank in (mix.mix_up, mix.decay_up):
        assert 0.0095 < low_rank.abs().max() <= 0.01001
    scale = [0.2853, 0.4635, 0.6156, 0.7529, 0.8802, 1.0][layer]
    assert mix.head_norm.weight.tolist() == pytest.approx([scale] * 640, rel=4e-3)
    assert not mix.head_norm.bias.any()
    assert mix.head_norm.eps == pytest.approx(6.4e-4)
    assert mix.head_norm.num_groups == 10


@pytest.mark.parametrize(
    ("path", "scale"),
    [
        ("time_mix.receptance", 1.0),
        ("time_mix.value", 1.0),
        ("time_mix.key", 0.1),
        ("time_mix.gate", 0.1),
        ("channel_mix.key", 0.5 * math.sqrt(3.5)),
    ],
)
def test_matrices_start_orthogonal(fresh: TextTower, path: str, scale: float) -> None:
    weight = fresh.blocks[2].get_submodule(path).weight
    gram = weight.T @ weight / scale**2
    torch.testing.assert_close(gram, torch.eye(640), atol=4e-3, rtol=0)


def test_embedding_and_norms_start(fresh: TextTower) -> None:
    embedding = fresh.token_embedding.weight
    assert 0.98e-4 < embedding.abs().max() < 1.01e-4
    for name, module in fresh.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5, name
            assert module.weight.eq(1).all(), name
            assert not module.bias.any(), name


def test_published_size() -> None:
    with torch.device("meta"):
        tower = TextTower()
    assert sum(parameter.numel() for parameter in tower.parameters()) == 65_354_240
    assert tower.token_embedding.weight.shape == (49408, 640)
    assert tower.blocks[0].channel_mix.key.weight.shape == (2240, 640)
    assert tower(torch.zeros(2, 77, dtype=torch.long, device="meta")).shape == (2, 640)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_dtype_of_parameters(dtype: torch.dtype) -> None:
    tower, plain = (published_size(depth=1, dtype=kind) for kind in (dtype, torch.float32))
    assert {parameter.dtype for parameter in tower.parameters()} == {dtype}
    assert tower(torch.zeros(1, 5, dtype=torch.long)).isfinite().all()
    assert torch.equal(tower.blocks[0].time_mix.decay.float(), plain.blocks[0].time_mix.decay)
    weight = tower.blocks[0].time_mix.value.weight.float()
    torch.testing.assert_close(weight.T @ weight, torch.eye(640), atol=4e-3, rtol=0)


def test_a_default_dtype_or_device_of_the_users_does_not_matter() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        tower = published_size(depth=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert tower.token_embedding.weight.dtype == torch.bfloat16
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in published_size(depth=1).parameters())


def shifted(x: Tensor, num_heads: int) -> Tensor:
    result, half = torch.zeros_like(x), x.shape[2] // num_heads // 2
    for channel in range(x.shape[2]):
        back = channel // half % 2 == 0
        for t in range(x.shape[1]):
            source = t - 1 if back else t + 1
            if 0 <= source < x.shape[1]:
                result[:, t, channel] = x[:, source, channel]
    return result


def test_each_head_looks_half_back_and_half_ahead() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(TimeMix(16, 2).token_shift(x), shifted(x, 2))


def test_channel_mix_weighs_the_shifted_token() -> None:
    torch.manual_seed(0)
    mix, x = TextChannelMix(16, 32, 2, layer=1, depth=3).double(), torch.randn(2, 5, 16, dtype=torch.float64)
    neighbours = shifted(x, 2)
    x_k, x_r = (x * (1 - share) + neighbours * share for share in (mix.mix_k, mix.mix_r))
    hidden = torch.relu(x_k @ mix.key.weight.T) ** 2
    expected = torch.sigmoid(x_r @ mix.receptance.weight.T) * (hidden @ mix.value.weight.T)
    torch.testing.assert_close(mix(x), expected)


def test_pooling_is_the_mean_of_unit_vectors_over_all_positions() -> None:
    tower, ids = small(), texts()
    features = tower.forward_features(ids)
    expected = (features / features.norm(dim=-1, keepdim=True)).sum(1) / 12
    torch.testing.assert_close(tower(ids), expected)


@pytest.mark.parametrize("length", [1, 5, 11])
def test_short_texts_are_padded_with_zeros(length: int) -> None:
    tower, ids = small(), texts(length)
    padded = torch.cat([ids, torch.zeros(3, 12 - length, dtype=torch.long)], dim=1)
    torch.testing.assert_close(tower(ids), tower(padded))
    assert tower.forward_features(ids).shape == (3, length, 32)
    unpadded = nn.functional.normalize(tower.forward_features(ids), dim=-1).mean(1)
    assert not torch.allclose(tower(ids), unpadded, atol=1e-3)
    first, second = (tower.forward_intermediates(kind) for kind in (ids, padded))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("ids", [torch.zeros(2, 13, dtype=torch.long), torch.zeros(5, dtype=torch.long)])
def test_other_shapes_of_ids_are_refused(ids: Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape \(B, T ≤ 12\)"):
        small()(ids)


def test_words_see_both_ways_and_texts_of_a_batch_do_not_meet() -> None:
    tower, ids = small().double(), texts()
    changed = ids.clone()
    changed[0, 6] = 0
    difference = (tower.forward_features(ids) - tower.forward_features(changed)).abs().amax(2)
    assert difference[0].gt(1e-9).all()
    assert not difference[1:].any()


def test_every_parameter_learns() -> None:
    tower = small().train()
    tower(texts())[:, :5].square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("training", [True, False])
def test_gradient_checkpointing_changes_nothing(training: bool) -> None:
    tower, results, runs = small().train(training), [], []
    for block in tower.blocks:
        block.register_forward_pre_hook(lambda *_: runs.append(1))
    for enable in (False, True):
        tower.zero_grad()
        tower.set_grad_checkpointing(enable)
        runs.clear()
        tower(texts())[:, 0].square().sum().backward()
        assert len(runs) == (6 if enable else 3)
        results.append({name: parameter.grad.clone() for name, parameter in tower.named_parameters()})
    torch.testing.assert_close(results[0], results[1])


def test_forward_intermediates() -> None:
    tower, ids = small(), texts()
    everything = tower.forward_intermediates(ids, normalize_intermediates=True)
    assert len(everything["text_intermediates"]) == 3
    torch.testing.assert_close(everything["text_intermediates"][-1], tower.forward_features(ids))
    torch.testing.assert_close(everything["text_features"], tower(ids))
    raw = tower.forward_intermediates(ids, [0, -1], intermediates_only=True)
    assert raw.keys() == {"text_intermediates"}
    torch.testing.assert_close(tower.norm(raw["text_intermediates"][1]), tower.forward_features(ids))
    last_two = tower.forward_intermediates(ids, 2, intermediates_only=True)["text_intermediates"]
    torch.testing.assert_close(last_two[1], raw["text_intermediates"][1])
    tower.blocks[1].forward = None
    early = tower.forward_intermediates(ids, [0], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early["text_intermediates"], raw["text_intermediates"][:1])
    with pytest.raises(ValueError, match="output_fmt must be 'NLC'"):
        tower.forward_intermediates(ids, output_fmt="NCHW")


def frozen(tower: TextTower) -> set[str]:
    return {name for name, parameter in tower.named_parameters() if not parameter.requires_grad}


def test_locking() -> None:
    names = set(dict(small().named_parameters()))
    for unlocked, open_prefixes in ((0, ()), (1, ("norm.",)), (2, ("norm.", "blocks.2.")), (5, ("",)), (9, ("",))):
        tower = small()
        tower.lock(unlocked)
        assert frozen(tower) == {name for name in names if not name.startswith(open_prefixes)}
    tower = small()
    tower.lock(freeze_layer_norm=False)
    assert {name for name in names if "norm" in name} == names - frozen(tower)


def test_weight_decay_and_layer_groups_name_real_parameters() -> None:
    tower = small()
    names = dict(tower.named_parameters()).keys()
    bonuses = {f"blocks.{layer}.time_mix.bonus" for layer in range(3)}
    assert tower.no_weight_decay() == {"token_embedding.weight"} | bonuses <= names
    groups = group_parameters(tower, tower.group_matcher(), reverse=True)
    assert groups.keys() == names
    assert groups["token_embedding.weight"] == groups["norm_pre.bias"] == 0
    assert groups["blocks.0.norm1.bias"] < groups["blocks.2.norm1.bias"] == groups["norm.bias"]


def test_copies_behave_alike() -> None:
    tower, ids = small(), texts()
    fresh = small(seed=3)
    fresh.load_state_dict(tower.state_dict())
    for copied in (copy.deepcopy(tower), pickle.loads(pickle.dumps(tower)), fresh):
        assert torch.equal(copied(ids), tower(ids))


def test_bfloat16_and_autocast() -> None:
    tower, ids = small(), texts()
    expected = tower(ids)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = tower(ids)
    assert (under_autocast - expected).abs().max() < 0.02
    assert (tower.bfloat16()(ids).float() - expected).abs().max() < 0.05


def test_one_layer_and_narrow_mixes() -> None:
    assert small(depth=1)(texts()).isfinite().all()
    assert small(mlp_ratio=0.1).blocks[0].channel_mix.key.weight.shape == (32, 32)
    assert small(embed_dim=88, num_heads=4, mlp_ratio=480 / 88).blocks[0].channel_mix.key.weight.shape[0] == 480


def test_unknown_mixer_names_the_nearest() -> None:
    with pytest.raises(InputError, match="text mixer 'rwkv6bi' is unknown; did you mean 'rwkv6_bi'"):
        TextTower(mixer="rwkv6bi")
