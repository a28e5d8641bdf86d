"""Bi-WKV6 as exported files hold it, against its definition in float64."""

import pytest
import torch
from torch import Tensor

from vrwkv.ops import bi_wkv6
from vrwkv.ops.bi_wkv6.exported import bi_wkv6_exported


def draw(tokens: int, decays: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    r, k, v, noise = torch.randn(4, 2, tokens, 3, 5, generator=generator, dtype=torch.float64)
    w = {
        "usual": noise - 1,
        "weak": noise - 12,
        "strong": noise + 4,
        "mixed": 6 * noise,
        "beyond exp": 40 * noise.sign() + 60 * noise,
    }[decays]
    return [r, k, v, w, torch.randn(3, 5, generator=generator, dtype=torch.float64)]


def relative_error(computed: Tensor, expected: Tensor) -> float:
    return ((computed.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("decays", ["usual", "weak", "strong", "mixed", "beyond exp"])
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 77, 256, 257, 600])
def test_equals_the_definition(tokens: int, decays: str) -> None:
    inputs = draw(tokens, decays)
    expected = bi_wkv6(*inputs, backend="naive")
    assert relative_error(bi_wkv6_exported(*inputs), expected) <= 1e-12
    assert relative_error(bi_wkv6_exported(*(tensor.float() for tensor in inputs)), expected) <= 5e-6


def test_no_overflow_where_every_decay_is_as_strong_as_can_be() -> None:
    r, k, v, _, u = draw(5000, "usual")
    y = bi_wkv6_exported(*(tensor.float() for tensor in (r, k, v, torch.full_like(r, 1e4), u)))
    own = ((r * k * u).sum(-1, keepdim=True) * v).float()
    neighbours = torch.zeros_like(own)
    neighbours[:, 1:] += ((r[:, 1:] * k[:, :-1]).sum(-1, keepdim=True) * v[:, :-1]).float()
    neighbours[:, :-1] += ((r[:, :-1] * k[:, 1:]).sum(-1, keepdim=True) * v[:, 1:]).float()
    torch.testing.assert_close(y, own + neighbours, rtol=1e-5, atol=1e-5)
