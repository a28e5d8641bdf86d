"""The masked encoder against loops in float64; the loss; weights that go straight into a classifier."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrwkv import InputError
from vrwkv.commands.pretrain_mae import main, pretrain
from vrwkv.layers import SpatialMix
from vrwkv.models import VisionRWKV
from vrwkv.objectives.mae_config import MaeConfig
from vrwkv.objectives.masked_autoencoder import MaskedAutoencoder, sine_cosine_positions
from vrwkv.objectives.masked_image_modelling import MaskedImageObjective, hidden_patch_loss, patch_targets
from vrwkv.objectives.masked_tokens import KeptTokens, MaskedTokenShift, random_kept_tokens
from vrwkv.objectives.reconstruction import reconstruction
from vrwkv.ops import q_shift, shift_mix
from vrwkv.training.configuration import load_config

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"img_size": (12, 20), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_classes": 0}
# Of a grid of 3 × 5: a lone token, a row of neighbours and a column of them; the corners; everything but one.
KEPT = [[0, 4, 7, 12], [5, 6, 7, 11], [2, 7, 12, 13], [0, 4, 10, 14]]


def random_encoder(**options: Any) -> VisionRWKV:
    torch.manual_seed(0)
    encoder = VisionRWKV(**{**SMALL, **options}).double().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def looped_shift(x: Tensor, index: list[int], grid: tuple[int, int], head_dim: int) -> Tensor:
    """(K, C): for every kept token and channel, the neighbour in the whole image, zero if hidden or outside."""
    place = {token: position for position, token in enumerate(index)}
    rows = []
    for token in index:
        row, column = divmod(token, grid[1])
        channels = []
        for channel in range(x.shape[1]):
            down, right = [(0, -1), (0, 1), (-1, 0), (1, 0)][channel % head_dim // (head_dim // 4)]
            r, c = row + down, column + right
            seen = 0 <= r < grid[0] and 0 <= c < grid[1] and r * grid[1] + c in place
            channels.append(x[place[r * grid[1] + c], channel] if seen else x.new_zeros(()))
        rows.append(torch.stack(channels))
    return torch.stack(rows)


def looped_bi_wkv(mix: SpatialMix, k: Tensor, v: Tensor) -> Tensor:
    """(K, C): Eq. 5 over the kept tokens as a sequence of their own, whose length divides decay and bonus."""
    kept = len(k)
    rows = []
    for t in range(kept):
        above, below = 0.0, 0.0
        for i in range(kept):
            distance = abs(t - i)
            exponent = mix.bonus / kept if distance == 0 else -(distance - 1) * mix.decay / kept
            weight = torch.exp(exponent + k[i])
            above, below = above + weight * v[i], below + weight
        rows.append(above / below)
    return torch.stack(rows)


def looped_features(encoder: VisionRWKV, images: Tensor, kept: list[list[int]]) -> Tensor:
    """What the encoder must compute, token by token and image by image."""
    grid = (images.shape[2] // 4, images.shape[3] // 4)
    outputs = []
    for image, index in zip(images, kept, strict=True):
        patches = [
            image[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].flatten() for r, c in (divmod(i, grid[1]) for i in index)
        ]
        proj = encoder.patch_embed.proj
        x = torch.stack(patches) @ proj.weight.flatten(1).T + proj.bias + encoder.pos_embed[0, index]
        x = encoder.norm_pre(x)
        for block in encoder.blocks:
            post = block.post_norm
            x = x + block.ls1(block.norm1(looped_spatial(block, x, index, grid)) if post
                              else looped_spatial(block, block.norm1(x), index, grid))  # fmt: skip
            x = x + block.ls2(block.norm2(looped_channel(block, x, index, grid)) if post
                              else looped_channel(block, block.norm2(x), index, grid))  # fmt: skip
        outputs.append(encoder.norm(x))
    return torch.stack(outputs)


def looped_spatial(block: nn.Module, x: Tensor, index: list[int], grid: tuple[int, int]) -> Tensor:
    mix = block.spatial_mix
    shifted = looped_shift(x, index, grid, x.shape[1])
    x_k, x_v, x_r = (x * own + shifted * (1 - own) for own in (mix.mix_k, mix.mix_v, mix.mix_r))
    y = mix.key_norm(looped_bi_wkv(mix, mix.key(x_k), mix.value(x_v)))
    return mix.output(torch.sigmoid(mix.receptance(x_r)) * y)


def looped_channel(block: nn.Module, x: Tensor, index: list[int], grid: tuple[int, int]) -> Tensor:
    mix = block.channel_mix
    shifted = looped_shift(x, index, grid, x.shape[1])
    x_k, x_r = (x * own + shifted * (1 - own) for own in (mix.mix_k, mix.mix_r))
    return torch.sigmoid(mix.receptance(x_r)) * mix.value(mix.key_norm(torch.relu(mix.key(x_k)).square()))


@pytest.mark.parametrize("options", [{}, {"post_norm": True, "init_values": 0.5, "key_norm": True}], ids=["T", "L"])
def test_masked_encoder_against_loops(options: dict[str, Any]) -> None:
    encoder, images = random_encoder(**options), torch.randn(4, 3, 12, 20, dtype=torch.float64, requires_grad=True)
    wanted = [images, *encoder.parameters()]
    expected = looped_features(encoder, images, KEPT)
    probe = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad((expected * probe).sum(), wanted)
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    model = MaskedAutoencoder(encoder, decoder_dim=8, decoder_depth=1).double()
    encoder.load_state_dict(state)
    features = model.encode(images, KeptTokens((3, 5), torch.tensor(KEPT)))
    gradients = torch.autograd.grad((features * probe).sum(), wanted)
    assert (features - expected).abs().max() < 1e-11 * expected.abs().max()
    for name, ours, loop in zip(["images", *state], gradients, expected_gradients, strict=True):
        assert (ours - loop).abs().max() <= 1e-10 * loop.abs().max(), name


@pytest.mark.parametrize(
    ("heads", "channels", "gamma", "distance", "grid"),
    [
        (1, 16, 0.25, 1, (3, 5)),
        (2, 24, 0.25, 1, (4, 4)),
        (1, 20, 0.2, 1, (1, 7)),
        (1, 18, 0.25, 2, (5, 3)),
        (1, 8, 0.25, 0, (2, 3)),
    ],
)
def test_masked_shift_is_the_shift_of_an_image_with_holes(
    heads: int, channels: int, gamma: float, distance: int, grid: tuple[int, int]
) -> None:
    kept = random_kept_tokens(3, grid, 0.5, generator=torch.Generator().manual_seed(1))
    x = torch.randn(3, kept.index.shape[1], channels, dtype=torch.float64)
    whole = kept.scatter(x, torch.zeros(channels))
    expected = kept.select(q_shift(whole, grid, num_heads=heads, shift=distance, gamma=gamma))
    assert torch.equal(MaskedTokenShift(heads, distance, gamma).shift(x, kept), expected)


@pytest.mark.parametrize("with_norm", [False, True])
def test_masked_mixtures_with_corrections(with_norm: bool) -> None:
    grid, kept = (3, 4), random_kept_tokens(2, (3, 4), 0.5)
    x, share = torch.randn(2, 6, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    correction = torch.randn(3, 2, 6, 8, dtype=torch.float64)
    norm = {"norm_weight": torch.randn(8).double(), "norm_bias": torch.randn(8).double()} if with_norm else {}
    found = MaskedTokenShift().mix(x, share, kept, correction, **norm)
    z = F.layer_norm(x, (8,), norm["norm_weight"], norm["norm_bias"]) if with_norm else x
    whole = kept.scatter(z, torch.zeros(8))
    corrections = torch.stack([kept.scatter(part, torch.zeros(8)) for part in correction])
    expected = shift_mix(whole, share, grid, correction=corrections)
    for ours, all_tokens in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, kept.select(all_tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"mixer": "bi_wkv6", "num_heads": 2}, {"post_norm": True, "init_values": 0.1}])
def test_everything_kept_is_the_classifiers_encoder(options: dict[str, Any]) -> None:
    encoder = random_encoder(**options)
    images = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    expected = encoder.forward_features(images)
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    model = MaskedAutoencoder(encoder, decoder_dim=8, decoder_depth=1).double()
    encoder.load_state_dict(state)
    everything = KeptTokens((3, 5), torch.arange(15).expand(2, -1))
    torch.testing.assert_close(model.encode(images, everything), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(encoder.forward_features(images), expected, rtol=0, atol=0)


def test_kept_tokens_are_random_and_in_raster_order() -> None:
    torch.manual_seed(0)
    kept = random_kept_tokens(400, (4, 5), 0.75)
    assert kept.index.shape == (400, 5)
    assert (kept.index.diff(dim=1) > 0).all()
    counts = kept.index.flatten().bincount(minlength=20)
    assert (counts - 100).abs().max() < 50  # five standard deviations of a fair draw
    assert (kept.hidden().sum(1) == 15).all()
    assert random_kept_tokens(1, (1, 2), 0.99).index.shape == (1, 1)
    assert random_kept_tokens(1, (1, 2), 0.01).index.shape == (1, 1)
    with pytest.raises(ValueError, match="nothing to hide"):
        random_kept_tokens(1, (1, 1), 0.5)


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    positions = sine_cosine_positions((2, 3), 8)
    assert positions.shape == (1, 6, 8)
    expected = [
        math.sin(1),
        math.sin(0.01),
        math.cos(1),
        math.cos(0.01),
        math.sin(2),
        math.sin(0.02),
        math.cos(2),
        math.cos(0.02),
    ]
    assert positions[0, 5].tolist() == pytest.approx(expected)


def test_loss_is_the_mean_over_hidden_pixels_only() -> None:
    images = torch.randn(2, 3, 4, 6)
    targets = patch_targets(images, (2, 2), normalise=False)
    assert torch.equal(targets[1, 4], images[1, :, 2:4, 2:4].flatten())
    hidden = torch.tensor([[True, False, False, True, False, False], [False] * 5 + [True]])
    prediction = targets + 100
    prediction[hidden] = targets[hidden] + torch.tensor([1.0, 2.0, 3.0])[:, None]
    assert hidden_patch_loss(prediction, targets, hidden) == pytest.approx((1 + 4 + 9) / 3)
    normalised = patch_targets(images * 7 + 3, (2, 2), normalise=True)
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(-1), torch.ones(2, 6), atol=1e-4, rtol=0)
    assert patch_targets(torch.ones(1, 3, 4, 4), (2, 2), normalise=True).abs().max() == 0


def test_gradients_reach_everything_and_recomputing_changes_nothing() -> None:
    images = torch.randn(2, 3, 12, 20)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(3)
        model = MaskedAutoencoder(VisionRWKV(**SMALL), mask_ratio=0.5, decoder_dim=8, decoder_depth=2)
        model.set_grad_checkpointing(recompute)
        torch.manual_seed(4)
        loss, _ = MaskedImageObjective((4, 4)).loss(model, {"image": images})
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name])
    assert "encoder.pos_embed" in model.no_weight_decay()


@pytest.mark.parametrize("options", [{}, {"mixer": "bi_wkv6", "num_heads": 2}], ids=["bi_wkv", "bi_wkv6"])
def test_bfloat16_autocast(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(VisionRWKV(**{**SMALL, **options}), decoder_dim=8, decoder_depth=1)
    objective, images = MaskedImageObjective((4, 4)), torch.randn(2, 3, 12, 20)
    losses = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, _ = objective.loss(model, {"image": images})
        loss.backward()
        losses.append(float(loss.detach()))
    assert loss.dtype == torch.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_what_is_hidden_does_not_matter_to_the_encoder() -> None:
    model = MaskedAutoencoder(random_encoder(), decoder_dim=8, decoder_depth=1).double()
    kept = KeptTokens((3, 5), torch.tensor([[0, 7, 12]]))
    images = torch.randn(1, 3, 12, 20, dtype=torch.float64)
    changed = torch.where(kept.hidden().view(1, 1, 3, 5).repeat_interleave(4, 2).repeat_interleave(4, 3), 9.0, images)
    assert torch.equal(model.encode(images, kept), model.encode(changed, kept))


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        ({"class_token": True, "mixer": "bi_wkv6"}, {}, "without a class token"),
        ({"embed_dim": 18}, {}, "multiples of 4, not 18"),
        ({}, {"decoder_dim": 10}, "and 10"),
        ({}, {"mask_ratio": 1.0}, "mask ratio in"),
    ],
)
def test_impossible_autoencoders(encoder: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskedAutoencoder(VisionRWKV(**{**SMALL, **encoder}), **options)


NANO = [
    "model.embed_dim=16",
    "model.depth=1",
    "mask.decoder_dim=16",
    "mask.decoder_depth=1",
    "train.epochs=1",
    "train.lr=1e-2",
    "schedule.warmup_epochs=0",
    "data.batch_size=256",
]


def test_pretraining_leaves_a_backbone_for_classifiers(tmp_path: Path) -> None:
    config = load_config(MaeConfig, ROOT / "configs/mae/digits_nano.yaml", [*NANO, f"run.output={tmp_path / 'mae'}"])
    results = pretrain(config)
    assert 0 < results["reconstruction_loss"] < results["visible_mean_loss"]
    model = timm.create_model(f"local-dir:{tmp_path / 'mae'}", pretrained=True, num_classes=10)
    fresh = timm.create_model(f"local-dir:{tmp_path / 'mae'}", num_classes=10)
    assert model.head.weight.shape == (10, 16)
    assert not torch.equal(model.blocks[0].spatial_mix.key.weight, fresh.blocks[0].spatial_mix.key.weight)
    again = pretrain(load_config(MaeConfig, tmp_path / "mae" / "config.yaml", [f"run.output={tmp_path / 'again'}"]))
    assert again["reconstruction_loss"] == results["reconstruction_loss"]
    backbone = timm.create_model(f"local-dir:{tmp_path / 'mae'}", pretrained=True)
    model = MaskedAutoencoder(backbone, decoder_dim=16, decoder_depth=1).eval()
    batches = [{"image": torch.randn(3, 3, 8, 8)}]
    first, second = (reconstruction(model, batches, normalise_pixels=True) for _ in range(2))
    assert first == second
    assert first["visible_mean_loss"] == pytest.approx(1, abs=0.2)  # normalised patches have variance 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.architecture=vrwkv_tiny", "did you mean 'vrwkv_tiny_patch16_224'"),
        ("mask.ratio=1", "mask.ratio must lie in"),
        ("mask.decoder_dim=30", "multiple of 4"),
        ("model.patch_size=3", "model.image_size 8 must be a multiple of the patch size 3"),
        ("data.train.kind=folder", "needs a path"),
    ],
)
def test_mistakes_are_one_line(override: str, message: str, tmp_path: Path) -> None:
    settings = ["--config", str(ROOT / "configs/mae/digits_nano.yaml"), f"run.output={tmp_path / 'mae'}", override]
    with pytest.raises(InputError, match=message) as caught:
        main(settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mae").exists()
