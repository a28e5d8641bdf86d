"""What inference on many tokens does to save memory: it changes no result, and nothing that anybody else can see."""

import pytest
import torch
from torch import Tensor, nn

from vrwkv.layers import Block, ChannelMix, SpatialMix, SpatialMix6, large_inputs
from vrwkv.ops.cpu_runtime import memory

GRID = (5, 7)
LAYERS = {
    "spatial_mix": lambda: SpatialMix(32),
    "spatial_mix, key norm": lambda: SpatialMix(32, key_norm=True),
    "spatial_mix, published": lambda: SpatialMix(32, formula="published"),
    "spatial_mix, no shift": lambda: SpatialMix(32, shift_pixel=0),
    "spatial_mix6": lambda: SpatialMix6(32, 2),
    "channel_mix": lambda: ChannelMix(32, 80, key_norm=True),
    "channel_mix, no shift": lambda: ChannelMix(32, 80, shift_pixel=0),
    "block": lambda: Block(32, init_values=0.5, drop_path=0.1),
    "block, plain": lambda: Block(32, drop_path=0.1),
    "block, post norm": lambda: Block(32, post_norm=True),
    "block6": lambda: Block(32, mixer="bi_wkv6", init_values=0.5),
    "block6, plain": lambda: Block(32, mixer="bi_wkv6"),
}


def layer_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    for parameter in layer.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return layer


def tokens() -> Tensor:
    return torch.randn(3, 35, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALLEST", 1000)
    monkeypatch.setattr(large_inputs, "LARGEST", 1000)
    monkeypatch.setattr(large_inputs, "AT_ONCE", 40 * 80 * 4 + 3)


@pytest.fixture
def linears_called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that pass through linear layers."""
    shapes: list[tuple[int, ...]] = []
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: shapes.append(tuple(x.shape)) or forward(self, x))
    return shapes


@pytest.mark.parametrize("name", LAYERS)
def test_results_and_inputs_are_what_they_were(
    name: str, monkeypatch: pytest.MonkeyPatch, linears_called: list[tuple[int, ...]]
) -> None:
    layer, x = layer_of(name), tokens()
    with torch.inference_mode():
        expected = layer(x, GRID)
        assert set(linears_called) <= {(3, 35, 32), (3, 35, 80), (3, 35, 128)}
        plainly_called = linears_called.copy()
        linears_called.clear()
        monkeypatch.setattr(memory, "SMALLEST", 1000)
        monkeypatch.setattr(large_inputs, "LARGEST", 1000)
        monkeypatch.setattr(large_inputs, "AT_ONCE", 20 * 80 * 4)
        torch.testing.assert_close(layer(x, GRID), expected)
    # Without a shift, the linear layers' input is the caller's own.
    assert linears_called != plainly_called or name in ("spatial_mix, no shift", "block, plain", "block6, plain")
    assert torch.equal(x, tokens())


@pytest.mark.usefixtures("everything_is_large")
def test_rows_are_as_many_as_fit(linears_called: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALLEST", 1 << 40)  # or layers are not called
    with torch.no_grad():
        layer_of("channel_mix")(tokens(), GRID)
    assert [shape for shape in linears_called if shape[1] == 80] == [(40, 80), (40, 80), (25, 80)]


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("name", ["block", "block6"])
def test_what_hooks_keep_stays_as_they_saw_it(name: str) -> None:
    block, seen = layer_of(name), []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend((tensor, tensor.clone()) for tensor in (*inputs, output) if isinstance(tensor, Tensor))

    for module in block.modules():
        module.register_forward_hook(keep)
    with torch.no_grad():
        block(tokens(), GRID)
    assert len(seen) > 20
    for kept, copy in seen:
        assert torch.equal(kept, copy)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("watched", ["output", "ls1", "drop_path1"])
def test_a_single_hook_is_enough(watched: str) -> None:
    block, seen = layer_of("block"), []
    module = block.spatial_mix.output if watched == "output" else getattr(block, watched)
    module.register_forward_hook(lambda module, inputs, output: seen.append((output, output.clone())))
    with torch.no_grad():
        block(tokens(), GRID)
    assert torch.equal(*seen[0])


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("name", ["spatial_mix", "spatial_mix6"])
@pytest.mark.parametrize("watched", ["key", "value", "receptance", "output"])
def test_what_one_hook_keeps_stays_as_it_saw_it(name: str, watched: str) -> None:
    mix, seen = layer_of(name), []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend((tensor, tensor.clone()) for tensor in (*inputs, output))

    getattr(mix, watched).register_forward_hook(keep)
    with torch.no_grad():
        mix(tokens(), GRID)
    assert len(seen) == 2
    for kept, copy in seen:
        assert torch.equal(kept, copy)


class _Keeping(nn.Module):
    """Somebody else's module, around one of ours."""

    def __init__(self, inner: nn.Module, seen: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.inner, self.seen = inner, seen

    def forward(self, x: Tensor, *others: object) -> Tensor:
        output = self.inner(x, *others)
        self.seen += [(x, x.clone()), (output, output.clone())]
        return output


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("mixer", ["bi_wkv", "bi_wkv6"])
def test_what_other_peoples_modules_keep_stays(mixer: str) -> None:
    torch.manual_seed(0)
    for name, _ in Block(32, mixer=mixer).named_modules():
        block, seen = Block(32, mixer=mixer).eval(), []
        # Of the mix, these are read and never called.
        if not name or name.endswith(("token_shift", "head_norm", "spatial_mix.key_norm")):
            continue
        block.set_submodule(name, _Keeping(block.get_submodule(name), seen))
        with torch.no_grad():
            try:
                block(tokens(), GRID)
            except AttributeError:  # the channel mix asks its key for the number of features
                assert name == "channel_mix.key"
                continue
        assert len(seen) >= 2, name
        for kept, copy in seen:
            assert torch.equal(kept, copy), name


@pytest.mark.usefixtures("everything_is_large")
def test_linear_layers_that_compute_something_else_are_called() -> None:
    mix, x = layer_of("spatial_mix"), tokens()
    mix.key.forward = lambda given: torch.zeros_like(given)
    with torch.no_grad():
        changed = mix(x, GRID)
        nn.init.zeros_(mix.key.weight)
        del mix.key.forward
        torch.testing.assert_close(mix(x, GRID), changed)


@pytest.mark.usefixtures("everything_is_large")
def test_training_and_autocast_take_all_tokens_at_once(linears_called: list[tuple[int, ...]]) -> None:
    block = layer_of("block")
    block(tokens(), GRID).sum().backward()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        block(tokens(), GRID)
    assert linears_called
    assert all(len(shape) == 3 for shape in linears_called)
