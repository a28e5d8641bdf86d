"""The channel mix in pieces: what it computes for many tokens, where the hidden layer would be large."""

import pytest
import torch
from torch import Tensor

from vrwkv.layers import channel_mix


@pytest.fixture
def mix() -> channel_mix.ChannelMix:
    torch.manual_seed(0)
    return channel_mix.ChannelMix(32, 80, key_norm=True).eval()


def sizes_seen_by(linear: torch.nn.Module, run: torch.nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> list:
    """Tokens of each call of `linear`, seen from its forward method."""
    seen = []
    forward = linear.forward
    monkeypatch.setattr(linear, "forward", lambda part: seen.append(tuple(part.shape)) or forward(part))
    run(x, (5, 7))
    return seen


def test_pieces_change_nothing(mix: channel_mix.ChannelMix, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 35, 32)
    with torch.inference_mode():
        whole = mix(x, (5, 7))
        monkeypatch.setattr(channel_mix, "LARGEST_HIDDEN", 1000)
        monkeypatch.setattr(channel_mix, "HIDDEN_AT_ONCE", 40 * 80 * 4 + 3)
        torch.testing.assert_close(mix(x, (5, 7)), whole)
        assert sizes_seen_by(mix.key, mix, x, monkeypatch) == [(40, 32), (40, 32), (25, 32)]


@pytest.mark.parametrize("watched", ["key", "key_norm", "value"])
def test_hooks_see_all_tokens_at_once(
    mix: channel_mix.ChannelMix, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_mix, "LARGEST_HIDDEN", 1000)
    shapes = []
    getattr(mix, watched).register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[:2]))
    with torch.no_grad():
        mix(torch.randn(3, 35, 32), (5, 7))
    assert shapes == [(3, 35)]


def test_training_takes_all_tokens_at_once(mix: channel_mix.ChannelMix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_mix, "LARGEST_HIDDEN", 1000)
    assert sizes_seen_by(mix.key, mix, torch.randn(3, 35, 32), monkeypatch) == [(3, 35, 32)]
