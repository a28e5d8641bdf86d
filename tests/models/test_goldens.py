"""Small cases computed in float64 from the semantics of the released code: outputs and gradients of every tensor."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import vrwkv
from vrwkv.models.published import published_names

GOLDENS = Path(__file__).parent.parent / "goldens"
IMAGE_GOLDENS = sorted(path.stem for path in GOLDENS.glob("*.safetensors") if "text" not in path.stem)
TOLERANCES = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-6, 1e-6)}


def relative_error(computed: Tensor, expected: Tensor) -> float:
    return ((computed.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def read_golden(name: str) -> tuple[dict, dict[str, Tensor]]:
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["config"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_there_are_five_image_goldens() -> None:
    assert len(IMAGE_GOLDENS) == 5


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", IMAGE_GOLDENS)
def test_outputs_and_gradients(name: str, dtype: torch.dtype) -> None:
    config, tensors = read_golden(name)
    model = vrwkv.from_published(config, with_prefix(tensors, "param/")).to(dtype)
    outputs = model.forward_maps(tensors["input/image"].to(dtype), config["out_indices"])
    expected = with_prefix(tensors, "output/")
    assert len(outputs) == len(expected) == len(config["out_indices"])
    output_tolerance, gradient_tolerance = TOLERANCES[dtype]
    for position, output in enumerate(outputs):
        assert output.shape == expected[str(position)].shape
        assert relative_error(output, expected[str(position)]) < output_tolerance
    sum((output**2).mean() for output in outputs).backward()
    gradients, names = with_prefix(tensors, "grad/"), published_names(model)
    own = {names[name]: parameter.grad for name, parameter in model.named_parameters()}
    assert own.keys() == gradients.keys()
    errors = {key: relative_error(own[key].reshape(gradients[key].shape), gradients[key]) for key in gradients}
    assert max(errors.values()) < gradient_tolerance, max(errors, key=errors.__getitem__)


def test_the_published_formula_is_another_one() -> None:
    config, tensors = read_golden("vrwkv_default")
    model = vrwkv.from_published(config, with_prefix(tensors, "param/"), formula="published")
    output = model.forward_maps(tensors["input/image"], 1)[0]
    assert 1e-5 < relative_error(output, tensors["output/1"]) < 0.1
