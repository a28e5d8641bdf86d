"""deform_attn: the oracle against the formula, every backend and the exported form against the oracle."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deform_attn_cases import Shapes, draw
from torch import Tensor
from torch.autograd import gradcheck

from vrwkv.ops import available_backends, deform_attn, explain_backends
from vrwkv.ops.deform_attn.exported import deform_attn_exported
from vrwkv.ops.dispatch import select_backend

LEVELS: dict[str, Shapes] = {
    "odd": [(3, 5)],
    "one_cell": [(1, 1)],
    "one_row": [(1, 7)],
    "one_column": [(6, 1)],
    "three_levels": [(8, 6), (4, 3), (1, 1)],
    "four_alike": [(2, 2)] * 4,
}
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}  # before rounding
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
every_level = pytest.mark.parametrize("shapes", LEVELS.values(), ids=LEVELS)
every_device = pytest.mark.parametrize("device", DEVICES)
every_form = pytest.mark.parametrize(
    "function",
    [deform_attn, lambda *inputs: deform_attn(*inputs, backend="naive"), deform_attn_exported],
    ids=["torch", "naive", "exported"],
)


def by_the_formula(values: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Every location weighs every cell: Σ_ij max(0, 1 - |v - i|) max(0, 1 - |u - j|) V_ij."""
    out = torch.zeros(1, dtype=torch.float64)
    maps = values.split([height * width for height, width in shapes], dim=1)
    for level, ((height, width), cells) in enumerate(zip(shapes, maps, strict=True)):
        u, v = locations[:, :, :, level, :, 0] * width - 0.5, locations[:, :, :, level, :, 1] * height - 0.5
        across = torch.relu(1 - (u[..., None] - torch.arange(width)).abs())
        down = torch.relu(1 - (v[..., None] - torch.arange(height)).abs())
        level_map = cells.unflatten(1, (height, width))
        out = out + torch.einsum("bqhp,bqhpi,bqhpj,bijhd->bqhd", weights[:, :, :, level], down, across, level_map)
    return out.flatten(2)


def output_and_gradients(
    function: Callable[..., Tensor], shapes: Shapes, inputs: tuple[Tensor, ...], **arguments: Any
) -> list[Tensor]:
    values, locations, weights = leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(values, shapes, locations, weights, **arguments)
    grad = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).bfloat16().to(y)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def assert_agree(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Up to a share of the largest element; half types add one rounding of their own."""
    for name, one, other in zip(("y", "values", "locations", "weights"), actual, expected, strict=True):
        rounding = torch.finfo(one.dtype).eps if one.dtype in (torch.bfloat16, torch.float16) else 0.0
        atol = TOLERANCE[actual[0].dtype] * other.abs().max().item()
        torch.testing.assert_close(
            one.cpu().double(), other.double(), rtol=rounding, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@every_level
def test_oracle_is_the_formula(shapes: Shapes) -> None:
    inputs = draw(shapes)
    actual = output_and_gradients(deform_attn, shapes, inputs, backend="naive")
    assert_agree(actual, output_and_gradients(by_the_formula, shapes, inputs))


@every_device
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@every_level
def test_agrees_with_the_oracle(shapes: Shapes, dtype: torch.dtype, device: str) -> None:
    inputs = draw(shapes, dtype=dtype)
    expected = output_and_gradients(deform_attn, shapes, tuple(x.double() for x in inputs), backend="naive")
    for backend in available_backends("deform_attn"):
        placed = tuple(x.to(device) for x in inputs)
        actual = output_and_gradients(deform_attn, shapes, placed, backend=backend)
        assert all(tensor.dtype == dtype for tensor in actual)
        assert_agree(actual, expected)


@pytest.mark.parametrize("sizes", [{"batch": 1, "queries": 1, "heads": 1, "head_dim": 1, "points": 1}, {"points": 3}])
def test_smallest_and_uneven_sizes(sizes: dict[str, int]) -> None:
    shapes = [(2, 3), (5, 1)]
    inputs = draw(shapes, **sizes)
    assert_agree(
        output_and_gradients(deform_attn, shapes, inputs),
        output_and_gradients(deform_attn, shapes, inputs, backend="naive"),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_values_with_exact_places(dtype: torch.dtype) -> None:
    shapes = LEVELS["three_levels"]
    values, locations, weights = draw(shapes, dtype=torch.float32)
    inputs = (values.to(dtype), locations, weights)
    actual = output_and_gradients(deform_attn, shapes, inputs)
    assert [tensor.dtype for tensor in actual] == [dtype, dtype, torch.float32, torch.float32]
    expected = output_and_gradients(deform_attn, shapes, tuple(x.double() for x in inputs), backend="naive")
    assert_agree(actual, expected)


def test_exported_form_agrees_with_the_oracle() -> None:
    for shapes in LEVELS.values():
        inputs = draw(shapes)
        expected = output_and_gradients(deform_attn, shapes, inputs, backend="naive")
        assert_agree(output_and_gradients(deform_attn_exported, shapes, inputs), expected)


@pytest.mark.parametrize("backend", available_backends("deform_attn"))
def test_gradcheck(backend: str) -> None:
    shapes = [(3, 4), (1, 2)]
    values, _, weights = draw(shapes, batch=1, queries=2, heads=2, head_dim=2, points=2)
    # In and around the maps, well between the cells' centres, where the slope jumps.
    generator = torch.Generator().manual_seed(1)
    size = torch.tensor([[4, 3], [2, 1]])[:, None]
    corner = (torch.rand(*weights.shape, 2, generator=generator) * (size + 3)).floor() - 2
    between = 0.1 + 0.8 * torch.rand(corner.shape, generator=generator, dtype=torch.float64)
    locations = (corner + between + 0.5) / size

    def function(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deform_attn(values, shapes, locations, weights, backend=backend)

    assert gradcheck(function, [x.requires_grad_() for x in (values, locations, weights)])


@every_form
def test_on_cells_centres(function: Callable[..., Tensor]) -> None:
    """There a cell is read alone, and the slope is that towards the next one: where training starts."""
    shapes = [(2, 4)]
    values = torch.tensor([1.0, 2, 4, 8, 16, 32, 64, 128], dtype=torch.float64).view(1, 8, 1, 1).requires_grad_()
    y, x = torch.meshgrid(torch.arange(2) + 0.5, torch.arange(4) + 0.5, indexing="ij")
    places = torch.stack((x / 4, y / 2), -1).double().view(1, 8, 1, 1, 1, 2).requires_grad_()
    weights = torch.ones(1, 8, 1, 1, 1, dtype=torch.float64)
    read = function(values, shapes, places, weights)
    assert torch.equal(read.flatten(), values.flatten())
    slope_x, slope_y = torch.autograd.grad(read.sum(), places)[0].view(8, 2).unbind(-1)
    assert slope_x.tolist() == [4 * step for step in (1, 2, 4, -8, 16, 32, 64, -128)]
    assert slope_y.tolist() == [2 * step for step in (15, 30, 60, 120, -16, -32, -64, -128)]


@every_form
def test_fades_to_zero_half_a_cell_outside(function: Callable[..., Tensor]) -> None:
    shapes = [(2, 4)]
    for x, y, expected in (
        (0.5, 0.5, 1.0),
        (0.0, 0.5, 0.5),
        (1.0, 0.5, 0.5),
        (0.5, 0.0, 0.5),
        (1.0, 1.0, 0.25),
        (-0.0625, 0.5, 0.25),
        (-0.125, 0.5, 0.0),
        (0.5, 1.25, 0.0),
        (0.5, 1.5, 0.0),
        (-7.0, 9.0, 0.0),
    ):
        place = torch.tensor([x, y], dtype=torch.float64).view(1, 1, 1, 1, 1, 2)
        ones = torch.ones(1, 8, 1, 1, dtype=torch.float64)
        assert function(ones, shapes, place, torch.ones_like(place[..., 0])).item() == expected


@pytest.mark.parametrize("backend", available_backends("deform_attn"))
def test_places_beyond_all_numbers(backend: str) -> None:
    shapes = [(3, 5), (2, 2)]
    values, locations, weights = draw(shapes, dtype=torch.float32)
    locations[0, 0, 0, 1, 2, 0] = -1.0
    expected = output_and_gradients(deform_attn, shapes, (values, locations, weights), backend=backend)
    for far in (1e10, -1e10, 3e38, -3e38, float("inf"), float("-inf")):
        locations[0, 0, 0, 1, 2, 0] = far
        actual = output_and_gradients(deform_attn, shapes, (values, locations, weights), backend=backend)
        assert_agree(actual, expected)
    locations[0, 0, 0, 1, 2, 0] = float("nan")
    y = deform_attn(values, shapes, locations, weights, backend=backend)
    assert y[0, 0, :5].isnan().all()  # the head that looks there, and nothing else
    y[0, 0, :5] = 0
    assert y.isfinite().all()


def test_strided_inputs() -> None:
    shapes = LEVELS["three_levels"]
    values, locations, weights = draw(shapes)
    strided = (
        values.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        locations.flip(-1).contiguous().flip(-1).permute(5, 4, 3, 2, 1, 0).contiguous().permute(5, 4, 3, 2, 1, 0),
        torch.stack((weights, weights), -1)[..., 0],
    )
    assert not any(tensor.is_contiguous() for tensor in strided)
    for one, other in zip(
        output_and_gradients(deform_attn, shapes, strided),
        output_and_gradients(deform_attn, shapes, (values, locations, weights)),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_gradient_of_one_argument_alone(wanted: int) -> None:
    shapes = LEVELS["three_levels"]
    inputs = draw(shapes)
    expected = output_and_gradients(deform_attn, shapes, inputs)[1 + wanted]
    inputs[wanted].requires_grad_()
    y = deform_attn(inputs[0], shapes, *inputs[1:])
    grad = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).bfloat16().to(y)
    assert torch.equal(torch.autograd.grad(y, inputs[wanted], grad)[0], expected)


def test_autocast_leaves_the_inside_alone() -> None:
    shapes = LEVELS["three_levels"]
    inputs = draw(shapes, dtype=torch.float32)
    expected = output_and_gradients(deform_attn, shapes, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = output_and_gradients(deform_attn, shapes, inputs)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_meta() -> None:
    shapes = LEVELS["three_levels"]
    values, locations, weights = (x.to("meta") for x in draw(shapes, dtype=torch.bfloat16))
    y = deform_attn(values, shapes, locations, weights)
    assert (y.is_meta, y.shape, y.dtype) == (True, (2, 7, 15), torch.bfloat16)


def test_backends() -> None:
    assert explain_backends("deform_attn") == {"torch": "available", "naive": "available"}
    for dtype in TOLERANCE:
        assert select_backend("deform_attn", None, torch.ones(1, dtype=dtype)).name == "torch"
