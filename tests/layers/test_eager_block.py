"""Blocks whose modules are not called one by one: the results are the modules', and whatever is special is called."""

import copy
from collections.abc import Callable

import pytest
import torch
from eager_blocks import GRID, check_hook, module_by_module, tokens
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune

from vrwkv.layers import Block, large_inputs
from vrwkv.layers.packing import pack
from vrwkv.ops.cpu_runtime import memory, threads


def block_of(dim: int = 32, **options: object) -> Block:
    torch.manual_seed(0)
    made = Block(dim, **options).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize(
    ("batch", "count", "grid", "dim", "options"),
    [
        (3, 35, GRID, 32, {}),
        (1, 35, GRID, 192, {"drop_path": 0.2, "layer": 1, "depth": 2}),
        (2, 37, GRID, 32, {}),  # class tokens
        (2, 1, (1, 1), 32, {}),
        (2, 400, (20, 20), 48, {"shift_pixel": 2}),
        (3, 35, GRID, 32, {"channel_gamma": 0.2, "mlp_ratio": 2.5}),
        (3, 35, GRID, 32, {"channel_gamma": 0.0, "backend": "cpu"}),
    ],
)
@pytest.mark.parametrize("inference", [torch.no_grad, torch.inference_mode])
def test_results_are_those_of_the_modules(  # type: ignore[no-untyped-def]
    batch: int, count: int, grid: tuple[int, int], dim: int, options: dict[str, object], inference, runs
) -> None:
    made, x = block_of(dim, **options), tokens(batch, count, dim)
    with inference():
        expected = module_by_module(made, x, grid)
        assert not runs
        found = made(x, grid)
        assert runs == [grid]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        copied = found.clone()
        made(x + 1, grid)
    assert torch.equal(found, copied)
    assert torch.equal(x, tokens(batch, count, dim))


def test_a_hidden_layer_in_pieces(runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    made = block_of()
    with torch.no_grad():
        expected = made(tokens(), GRID)
        monkeypatch.setattr(large_inputs, "LARGEST", 1000)
        monkeypatch.setattr(large_inputs, "AT_ONCE", 20 * 128 * 4)
        torch.testing.assert_close(made(tokens(), GRID), expected)
    assert len(runs) == 2


def test_reused_memory_and_threads_change_nothing(runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = block_of(), tokens(2, 400)
    with torch.no_grad():
        expected = made(x, (20, 20))
        monkeypatch.setattr(threads, "GRAIN", 1)
        monkeypatch.setattr(memory, "SMALLEST", 1)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        with memory.reusing_memory():
            for _ in range(5):
                torch.testing.assert_close(made(x, (20, 20)), expected)
        torch.set_num_threads(before)
    assert len(runs) == 6


@pytest.mark.parametrize("name", ["decay", "bonus"])
@pytest.mark.parametrize("value", [-5000.0, 5000.0, float("nan")])
def test_where_compiled_loops_are_not_accurate(name: str, value: float, runs: list[tuple[int, int]]) -> None:
    made = block_of()
    getattr(made.spatial_mix, name).data[3] = value
    with torch.no_grad():
        expected = module_by_module(made, tokens(), GRID)
        torch.testing.assert_close(made(tokens(), GRID), expected, equal_nan=True)
    assert len(runs) == 1
    assert expected.isfinite().all() == (value == value)


def _change_in_place(made: Block) -> None:
    for parameter in made.parameters():
        parameter.data.mul_(1.5)


def _train(made: Block) -> None:
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    with torch.enable_grad():
        made(tokens(), GRID).square().mean().backward()
    optimizer.step()


def _load(made: Block) -> None:
    made.load_state_dict(copy.deepcopy(block_of(layer=1, depth=2)).state_dict(), assign=True)


@pytest.mark.parametrize("change", [_change_in_place, _train, _load])
def test_parameters_are_read_at_every_pass(change: Callable[[Block], None], runs: list[tuple[int, int]]) -> None:
    made = block_of()
    with torch.no_grad():
        before = made(tokens(), GRID)
        change(made)
        after = made(tokens(), GRID)
        torch.testing.assert_close(after, module_by_module(made, tokens(), GRID), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, after)
    assert len(runs) == 2


NEVER_CALLED = ("spatial_mix.token_shift", "spatial_mix.key_norm", "channel_mix.token_shift")
SUBMODULES = [name for name, _ in block_of().named_modules() if name]


@pytest.mark.parametrize("name", SUBMODULES)
def test_hooks_are_called_and_what_they_keep_stays(name: str, runs: list[tuple[int, int]]) -> None:
    check_hook(block_of(), name, calls=0 if name in NEVER_CALLED else 1)
    assert not runs


def test_hooks_on_all_modules_are_called(runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALLEST", 1)
    made, seen = block_of(), []
    handle = register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        with torch.no_grad():
            made(tokens(), GRID)
    finally:
        handle.remove()
    assert not runs
    called = {name for name, module in made.named_modules() if module in seen}
    assert called == {"", *SUBMODULES} - {*NEVER_CALLED}


class _Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _subclass(made: Block) -> None:
    made.spatial_mix.key.__class__ = _Doubled


def _override(made: Block) -> None:
    made.channel_mix.value.forward = lambda x: x[..., :32] + 1


def _bias(made: Block) -> None:
    made.channel_mix.receptance.bias = nn.Parameter(torch.randn(32))


def _prune(made: Block) -> None:
    prune.l1_unstructured(made.spatial_mix.output, "weight", amount=0.5)


def _parametrize(made: Block) -> None:
    parametrizations.weight_norm(made.channel_mix.key)
    made.channel_mix.key.parametrizations.weight.original0.data.mul_(2)


def _adapt(made: Block) -> None:
    made.spatial_mix.value = nn.Sequential(made.spatial_mix.value, nn.ReLU())


def _no_affine(made: Block) -> None:
    made.norm2 = nn.LayerNorm(32, elementwise_affine=False)


def _stride(made: Block) -> None:
    made.spatial_mix.mix_k = nn.Parameter(made.spatial_mix.mix_k[:, None].repeat(1, 2)[:, 0])


@pytest.mark.parametrize("change", [_subclass, _override, _bias, _prune, _parametrize, _adapt, _no_affine, _stride])
def test_what_is_not_plain_is_called(change: Callable[[Block], None], runs: list[tuple[int, int]]) -> None:
    made = block_of()
    with torch.no_grad():
        plain = made(tokens(), GRID)
        assert len(runs) == 1
        change(made)
        found = made(tokens(), GRID)
        expected = module_by_module(made, tokens(), GRID)
    assert len(runs) == 1
    assert torch.equal(found, expected)
    assert change is _stride or not torch.allclose(found, plain)


@pytest.mark.parametrize(
    "options",
    [
        {"post_norm": True},
        {"key_norm": True},
        {"init_values": 0.1},
        {"formula": "published"},
        {"shift_pixel": 0},
        {"backend": "torch"},
        {"mixer": "bi_wkv6", "num_heads": 4},
        {"mixer": "bi_wkv6", "key_norm": True},
        {"mlp_ratio": 1.25},
        {"dtype": torch.bfloat16},
    ],
)
def test_other_blocks_are_called(options: dict[str, object], runs: list[tuple[int, int]]) -> None:
    made = block_of(**options)
    with torch.no_grad():
        made(tokens().to(made.norm1.weight.dtype), GRID)
    assert not runs


def test_other_circumstances(runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = block_of(drop_path=0.5), tokens()
    made(x, GRID).sum().backward()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            made(x, GRID)
        made(x.transpose(0, 1).contiguous().transpose(0, 1), GRID)
        images, grid = pack([x[:1], x[1:2, :12]], [GRID, (3, 4)])
        made(images, grid)
        torch.compile(made, backend="eager")(x, GRID)
        made.train()(x, GRID)
        made.eval()
        monkeypatch.setenv("VRWKV_BACKEND", "naive")
        made(x, GRID)
        assert not runs
        monkeypatch.setenv("VRWKV_BACKEND", "cpu")
        made(x, GRID)
    assert len(runs) == 1


def test_wrong_arguments_are_refused_as_ever() -> None:
    made = block_of()
    with torch.no_grad():
        for grid in ((5, 8), (0, 7), (5, -7)):
            with pytest.raises(ValueError, match=r"grid|tokens"):
                made(tokens(), grid)
        with pytest.raises((ValueError, RuntimeError)):
            made(tokens(dim=48), GRID)
