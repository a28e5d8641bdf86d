"""Blocks of VRWKV6 whose modules are not called one by one, as test_eager_block.py has those of Vision-RWKV."""

from collections.abc import Callable

import pytest
import torch
from eager_blocks import GRID, check_hook, module_by_module, tokens
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from vrwkv.layers import Block, large_inputs
from vrwkv.layers.packing import pack
from vrwkv.layers.spatial_mix6 import SpatialMix6
from vrwkv.layers.token_shift import SequenceShift, TokenShift
from vrwkv.ops.cpu_runtime import memory, threads


def block_of(dim: int = 32, num_heads: int = 2, **options: object) -> Block:
    torch.manual_seed(0)
    made = Block(dim, mixer="bi_wkv6", num_heads=num_heads, **options).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize(
    ("batch", "count", "grid", "dim", "num_heads", "options"),
    [
        (3, 35, GRID, 32, 2, {}),
        (1, 35, GRID, 192, 3, {"drop_path": 0.2, "layer": 1, "depth": 2}),
        (2, 37, GRID, 64, 1, {}),  # class tokens
        (2, 1, (1, 1), 32, 2, {}),
        (2, 400, (20, 20), 48, 3, {"shift_pixel": 2}),
        (3, 35, GRID, 96, 2, {"channel_gamma": 0.2, "mlp_ratio": 2.5}),  # groups that end inside vectors
        (3, 35, GRID, 128, 1, {"channel_gamma": 0.0, "backend": "cpu"}),
        (1, 1302, (31, 42), 32, 1, {}),  # several segments
    ],
)
@pytest.mark.parametrize("inference", [torch.no_grad, torch.inference_mode])
def test_results_are_those_of_the_modules(  # type: ignore[no-untyped-def]
    batch: int, count: int, grid: tuple[int, int], dim: int, num_heads: int, options: dict[str, object], inference, runs
) -> None:
    made, x = block_of(dim, num_heads, **options), tokens(batch, count, dim)
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


@pytest.mark.parametrize("part", ["spatial_mix", "channel_mix"])
def test_each_shift_has_heads_of_its_own(part: str, runs: list[tuple[int, int]]) -> None:
    made = block_of(64, 2)
    with torch.no_grad():
        before = made(tokens(dim=64), GRID)
        made.get_submodule(part).token_shift = TokenShift(4)
        found = made(tokens(dim=64), GRID)
        expected = module_by_module(made, tokens(dim=64), GRID)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)
    assert len(runs) == 2


def test_the_epsilon_of_the_norm_per_head(runs: list[tuple[int, int]]) -> None:
    made, x = block_of(), tokens()
    with torch.no_grad():
        before = made(x, GRID)
        made.spatial_mix.norm_eps = 10.0
        found = made(x, GRID)
        torch.testing.assert_close(found, module_by_module(made, x, GRID), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)
    assert len(runs) == 2


def test_reused_memory_pieces_and_threads_change_nothing(
    runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, x = block_of(), tokens(2, 400)
    with torch.no_grad():
        expected = module_by_module(made, x, (20, 20))
        monkeypatch.setattr(threads, "GRAIN", 1)
        monkeypatch.setattr(memory, "SMALLEST", 1)
        monkeypatch.setattr(large_inputs, "LARGEST", 1000)
        monkeypatch.setattr(large_inputs, "AT_ONCE", 30 * 128 * 4)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        with memory.reusing_memory():
            for _ in range(5):
                torch.testing.assert_close(made(x, (20, 20)), expected, rtol=1e-5, atol=1e-5)
        torch.set_num_threads(before)
    assert len(runs) == 5


PARAMETERS = [name for name, _ in block_of().named_parameters()]


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_parameter_is_read_at_every_pass(name: str, runs: list[tuple[int, int]]) -> None:
    made, x = block_of(), tokens()
    with torch.no_grad():
        before = made(x, GRID)
        parameter = made.get_parameter(name)
        parameter.data.add_(torch.randn_like(parameter))
        after = made(x, GRID)
        torch.testing.assert_close(after, module_by_module(made, x, GRID), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(before, after)
    assert len(runs) == 2


NEVER_CALLED = ("spatial_mix.token_shift", "spatial_mix.head_norm", "channel_mix.token_shift")
SUBMODULES = [name for name, _ in block_of().named_modules() if name]


@pytest.mark.parametrize("name", SUBMODULES)
def test_hooks_are_called_and_what_they_keep_stays(name: str, runs: list[tuple[int, int]]) -> None:
    check_hook(block_of(), name, calls=0 if name in NEVER_CALLED else 1)
    assert not runs


def test_hooks_on_all_modules_are_called(runs: list[tuple[int, int]]) -> None:
    made, seen = block_of(), []
    handle = register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        with torch.no_grad():
            made(tokens(), GRID)
    finally:
        handle.remove()
    assert not runs
    called = {name for name, module in made.named_modules() if module in seen}
    assert called >= {"", *SUBMODULES} - {*NEVER_CALLED}


class _Own(SpatialMix6):
    def forward(self, *arguments: object) -> Tensor:
        return 2 * super().forward(*arguments)


def _subclass(made: Block) -> None:
    made.spatial_mix.__class__ = _Own


def _override(made: Block) -> None:
    made.spatial_mix.forward = lambda x, *_: x + 1


def _bias(made: Block) -> None:
    made.spatial_mix.gate.bias = nn.Parameter(torch.randn(32))


def _adapt(made: Block) -> None:
    made.spatial_mix.receptance = nn.Sequential(made.spatial_mix.receptance, nn.ReLU())


def _text(made: Block) -> None:
    made.spatial_mix.token_shift = SequenceShift(2)


def _backend(made: Block) -> None:
    made.spatial_mix.backend = "naive"


def _other_rank(made: Block) -> None:
    mix = made.spatial_mix
    mix.decay_down, mix.decay_up = nn.Parameter(mix.decay_down[:, :9].clone()), nn.Parameter(mix.decay_up[:9].clone())


def _stride(made: Block) -> None:
    made.spatial_mix.bonus = nn.Parameter(made.spatial_mix.bonus.t().contiguous().t())


@pytest.mark.parametrize(
    "change", [_subclass, _override, _bias, _adapt, _text, _backend, _other_rank, _stride], ids=lambda f: f.__name__
)
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
    assert change in (_stride, _backend) or not torch.allclose(found, plain)


@pytest.mark.parametrize(
    ("dim", "num_heads", "options"),
    [
        (48, 2, {}),  # heads of broken vectors
        (144, 1, {}),  # too large a head for the compiled loops
        (32, 2, {"post_norm": True}),
        (32, 2, {"init_values": 0.1}),
        (32, 2, {"shift_pixel": 0}),
        (32, 2, {"dtype": torch.bfloat16}),
    ],
)
def test_other_blocks_are_called(
    dim: int, num_heads: int, options: dict[str, object], runs: list[tuple[int, int]]
) -> None:
    made = block_of(dim, num_heads, **options)
    with torch.no_grad():
        made(tokens(dim=dim).to(made.norm1.weight.dtype), GRID)
    assert not runs


def test_other_circumstances(runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = block_of(), tokens()
    made(x, GRID).sum().backward()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            made(x, GRID)
        images, grid = pack([x[:1], x[1:2, :12]], [GRID, (3, 4)])
        made(images, grid)
        monkeypatch.setenv("VRWKV_BACKEND", "naive")
        made(x, GRID)
        assert not runs
        monkeypatch.setenv("VRWKV_BACKEND", "cpu")
        made(x, GRID)
    assert len(runs) == 1
