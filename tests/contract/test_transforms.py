"""`torch.func` and forward-mode derivatives see through ops and models: the same as through the definitions."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from wkv_ops_under_test import assert_agrees

from vrwkv.ops import available_backends, bi_wkv, bi_wkv6, shift_mix

SHAPES = {
    "bi_wkv": [(16,), (16,), (2, 12, 16), (2, 12, 16), (2, 12, 16)],
    "bi_wkv6": [(2, 12, 2, 8)] * 4 + [(2, 8)],
    "shift_mix": [(2, 12, 16), (3, 16), (16,), (16,)],
}
CHOICES = [
    (op, backend) for op in SHAPES for backend in (None, "cpu", "torch") if backend in (None, *available_backends(op))
]


def drawn(op: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES[op]]


def function(op: str, backend: str | None) -> Callable[..., Tensor]:
    if op == "bi_wkv":
        return lambda decay, bonus, k, v, gate: bi_wkv(decay, bonus, k, v, gate=gate, backend=backend)
    if op == "bi_wkv6":
        return lambda *inputs: bi_wkv6(*inputs, backend=backend)
    return lambda x, share, weight, bias: torch.stack(
        shift_mix(x, share, (3, 4), norm_weight=weight, norm_bias=bias, backend=backend)
    )


def under_transforms(run: Callable[..., Tensor], inputs: list[Tensor]) -> dict[str, Tensor]:
    tangents = [x.flip(-1) for x in inputs]
    every = tuple(range(len(inputs)))
    found = {"jvp": jvp(run, tuple(inputs), tuple(tangents))[1]}
    found["grad"] = torch.cat([x.flatten() for x in grad(lambda *x: run(*x).square().sum(), every)(*inputs)])
    found["jacrev"] = jacrev(lambda *x: run(*x).sum(-1)[0])(*inputs)
    found["vmap"] = vmap(lambda x: run(*[x if i == 2 else y for i, y in enumerate(inputs)]))(
        torch.stack([inputs[2], 2 * inputs[2]])
    )
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
        found["dual"] = forward_ad.unpack_dual(run(*duals)).tangent
    return found


@pytest.mark.parametrize(("op", "backend"), CHOICES)
def test_ops(op: str, backend: str | None) -> None:
    inputs = drawn(op)
    found = under_transforms(function(op, backend), inputs)
    for name, expected in under_transforms(function(op, "naive"), inputs).items():
        assert_agrees(found[name], expected, name, tolerance=1e-5)


def test_second_derivatives_of_an_op() -> None:
    decay, bonus, *others = drawn("bi_wkv")

    def curved(backend: str | None) -> Tensor:
        return hessian(lambda bonus: bi_wkv(decay, bonus, *others[:2], backend=backend).square().sum())(bonus)

    assert_agrees(curved(None), curved("naive"), "hessian", tolerance=1e-4)


@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224"])
def test_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, depth=2).eval()
    images = torch.randn(2, 3, 64, 80)
    parameters = dict(model.named_parameters())

    def through(backend: str) -> dict[str, Tensor]:
        monkeypatch.setenv("VRWKV_BACKEND", backend)
        gradients = grad(lambda p: functional_call(model, p, (images,)).square().sum())(parameters)
        return {
            "jvp": jvp(model, (images,), (images,))[1],
            "grad": torch.cat([gradients[key].flatten() for key in parameters]),
            "vmap": vmap(lambda image: model(image[None]))(images),
        }

    expected = through("naive")
    for key, found in through("").items():
        assert_agrees(found, expected[key], key, tolerance=1e-5)
