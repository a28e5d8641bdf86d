"""DeformableAttention: the published layer, its starting values, and its place in other people's models."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vrwkv.layers.deformable_attention as layer_module
from vrwkv.layers.deformable_attention import DeformableAttention

SHAPES = [(4, 6), (2, 3)]


def inputs(queries: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """query, reference points, values of both levels."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, queries, 24, generator=generator, dtype=torch.float64)
    points = torch.rand(2, queries, 2, 2, generator=generator, dtype=torch.float64)
    values = torch.randn(2, 30, 24, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype) for tensor in (query, points, values)]


def trained(**options: Any) -> DeformableAttention:
    """A layer whose places and weights depend on the query."""
    torch.manual_seed(0)
    layer = DeformableAttention(24, 3, 2, **{"dtype": torch.float64, **options})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def published(layer: DeformableAttention, query: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """The forward pass of the released MSDeformAttn, in its own layout, on `SHAPES`."""
    batch, queries, _ = query.shape
    heads, levels = layer.num_heads, layer.num_levels
    value = layer.value_proj(values).view(batch, 30, heads, -1)
    offsets = layer.sampling_offsets(query).view(batch, queries, heads, levels, -1, 2)
    weights = F.softmax(layer.attention_weights(query).view(batch, queries, heads, -1), -1)
    width_height = torch.tensor([[6.0, 4.0], [3.0, 2.0]], dtype=query.dtype)
    locations = points[:, :, None, :, None, :] + offsets / width_height[None, None, None, :, None, :]
    grids = 2 * locations - 1
    samples = []
    for level, (cells, (height, width)) in enumerate(zip(value.split([24, 6], 1), SHAPES, strict=True)):
        level_map = cells.flatten(2).transpose(1, 2).reshape(batch * heads, -1, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(level_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    output = (torch.stack(samples, -2).flatten(-2) * weights).sum(-1).view(batch, -1, queries)
    return layer.output_proj(output.transpose(1, 2))


@pytest.mark.parametrize("backend", [None, "torch", "naive"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("num_points", [1, 4])
def test_equals_the_published_layer(num_points: int, ratio: float, backend: str | None) -> None:
    layer = trained(num_points=num_points, ratio=ratio, backend=backend)
    leaves = [tensor.requires_grad_() for tensor in inputs()]
    wanted = [*leaves, *layer.parameters()]
    actual, expected = layer(*leaves, SHAPES), published(layer, *leaves)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(y.square().sum(), wanted) for y in (actual, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_names_and_shapes_of_the_parameters() -> None:
    state = DeformableAttention(24, 3, num_levels=2, num_points=5, ratio=0.5).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "sampling_offsets.weight": (60, 24),
        "sampling_offsets.bias": (60,),
        "attention_weights.weight": (30, 24),
        "attention_weights.bias": (30,),
        "value_proj.weight": (12, 24),
        "value_proj.bias": (12,),
        "output_proj.weight": (24, 12),
        "output_proj.bias": (24,),
    }


def test_starting_values() -> None:
    torch.manual_seed(0)
    layer = DeformableAttention(48, 8, num_levels=3, num_points=4, ratio=0.5)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    expected = torch.tensor(
        [[[(step * x, step * y) for step in (1, 2, 3, 4)]] * 3 for x, y in directions], dtype=torch.float32
    )
    bias = layer.sampling_offsets.bias.detach().view(8, 3, 4, 2)
    torch.testing.assert_close(bias, expected, rtol=0, atol=1e-6)
    for parameter in (layer.sampling_offsets.weight, *layer.attention_weights.parameters()):
        assert not parameter.any()
    for projection in (layer.value_proj, layer.output_proj):
        assert not projection.bias.any()
        bound = (6 / (24 + 48)) ** 0.5
        assert 0.99 * bound < projection.weight.abs().max() <= bound


def test_starts_as_the_mean_along_the_rays() -> None:
    """A head of its own direction reads the cells at distance 1 to 4, all alike, and zeros beyond the edge."""
    layer = DeformableAttention(2, 2, num_points=4, dtype=torch.float64)
    for projection in (layer.value_proj, layer.output_proj):
        nn.init.eye_(projection.weight)
    values = torch.arange(7, dtype=torch.float64)[None, :, None].expand(1, 7, 2)
    points = torch.tensor([2.5 / 7, 0.5], dtype=torch.float64).view(1, 1, 1, 2)
    found = layer(torch.zeros(1, 1, 2, dtype=torch.float64), points, values, [(1, 7)])
    torch.testing.assert_close(found.flatten().tolist(), [(3 + 4 + 5 + 6) / 4, (1 + 0) / 4])


def test_one_set_of_reference_points_for_all_images() -> None:
    layer, (query, points, values) = trained(), inputs()
    shared = layer(query, points[:1], values, SHAPES)
    torch.testing.assert_close(shared, layer(query, points[:1].expand(2, -1, -1, -1), values, SHAPES))


class Spy:
    """The op, and the dtypes of what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dtypes: list[torch.dtype] = []
        self.op = layer_module.deform_attn
        monkeypatch.setattr(layer_module, "deform_attn", self)

    def __call__(self, values: Tensor, shapes: Any, locations: Tensor, weights: Tensor, **arguments: Any) -> Tensor:
        self.dtypes += [values.dtype, locations.dtype, weights.dtype]
        return self.op(values, shapes, locations, weights, **arguments)


def test_places_are_exact_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, spy = trained(dtype=torch.float32), Spy(monkeypatch)
    given = inputs(dtype=torch.float32)
    expected = layer(*given, SHAPES)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(*given, SHAPES)
    assert y.dtype == torch.bfloat16
    assert spy.dtypes == [torch.float32] * 3 + [torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.03 * expected.abs().max().item())
    y.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, spy = trained(dtype=dtype), Spy(monkeypatch)
    query, points, values = inputs(dtype=dtype)
    assert layer(query, points.float(), values, SHAPES).dtype == dtype
    assert spy.dtypes == [dtype, torch.float32, torch.float32]


def test_meta() -> None:
    layer = DeformableAttention(24, 3, 2, device="meta")
    y = layer(*(tensor.to("meta") for tensor in inputs(dtype=torch.float32)), SHAPES)
    assert (y.is_meta, y.shape) == (True, (2, 5, 24))


class OnMaps(nn.Module):
    """The layer on maps (B, dim, H, W), whose sizes are the shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = trained(dtype=torch.float32)

    def forward(self, query: Tensor, points: Tensor, large: Tensor, small: Tensor) -> Tensor:
        values = torch.cat([level_map.flatten(2).transpose(1, 2) for level_map in (large, small)], 1)
        shapes = [(level_map.shape[2], level_map.shape[3]) for level_map in (large, small)]
        return self.attention(query, points, values, shapes)


def maps(height: int, width: int, queries: int) -> tuple[Tensor, ...]:
    query, points, _ = inputs(queries=queries, dtype=torch.float32)
    large, small = torch.randn(2, 24, 2 * height, 2 * width), torch.randn(2, 24, height, width)
    return query, points[:1], large, small


def test_export_for_maps_of_any_size() -> None:
    model = OnMaps().eval()
    free = torch.export.Dim.DYNAMIC
    sizes = ({1: free}, {1: free}, {2: free, 3: free}, {2: free, 3: free})
    exported = torch.export.export(model, maps(3, 4, 5), dynamic_shapes=sizes).module()
    with torch.no_grad():
        for size in ((2, 5, 9), (7, 3, 4)):
            given = maps(*size)
            torch.testing.assert_close(exported(*given), model(*given), rtol=1e-5, atol=1e-5)


def test_compiles_whole() -> None:
    torch.compiler.reset()
    layer, given = trained(dtype=torch.float32, num_points=1), inputs(dtype=torch.float32)
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(*given, SHAPES)
        torch.testing.assert_close(compiled, layer(*given, SHAPES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, r"^num_heads must divide dim · ratio = 24 · 1.0 = 24, not be 5"),
        ({"num_heads": 8, "ratio": 0.5}, r"^num_heads must divide dim · ratio = 24 · 0.5 = 12, not be 8"),
        ({"ratio": 0.0}, "^num_heads must divide"),
        ({"num_heads": 0}, "^num_heads must be at least 1, not 0"),
        ({"num_levels": 0}, "^num_levels must be at least 1, not 0"),
        ({"num_points": -1}, "^num_points must be at least 1, not -1"),
    ],
)
def test_wrong_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeformableAttention(**{"dim": 24, "num_heads": 3, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": torch.ones(2, 5, 12)}, r"^query must have shape \(B, Q, dim\)"),
        ({"values": torch.ones(1, 30, 24)}, r"^values must have shape \(B, ΣHW, dim\)"),
        ({"values": torch.ones(2, 29, 24)}, "^values has 29 tokens"),
        ({"values": [1.0]}, "^values must be a tensor, not list"),
        ({"reference_points": torch.ones(2, 5, 1, 2)}, "^reference_points must have shape"),
        ({"reference_points": torch.ones(3, 5, 2, 2)}, "^reference_points must have shape"),
        ({"reference_points": torch.ones(())}, "^reference_points must have shape"),
        ({"reference_points": torch.ones(2, 5, 2, 2).to("meta")}, "^reference_points is on meta but query is on cpu"),
        ({"shapes": [(5, 6)]}, "^shapes must be those of 2 levels, not of 1"),
        ({"shapes": torch.tensor(SHAPES)}, "^shapes must be a list"),
        ({"shapes": [(4, 6.0), (2, 3)]}, "^shapes must be a list"),
        ({"shapes": [(4, 6), 6]}, "^shapes must be a list"),
        ({"shapes": [(0, 6), (5, 6)]}, "^shapes must be a list"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    query, points, values = inputs(dtype=torch.float32)
    right = {"query": query, "reference_points": points, "values": values, "shapes": SHAPES}
    with pytest.raises(ValueError, match=message) as caught:
        trained(dtype=torch.float32)(**{**right, **arguments})
    assert "\n" not in str(caught.value)


def test_backend_is_that_of_the_op() -> None:
    with pytest.raises(ValueError, match="backend 'warp' does not exist for deform_attn"):
        trained(backend="warp")(*inputs(), SHAPES)
