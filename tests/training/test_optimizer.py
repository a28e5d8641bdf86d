import pytest
import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.training.config import OptimConfig
from vrwkv.training.optimizer import create_optimizer, parameter_groups


class Mix(nn.Module):
    """One layer with every kind of parameter the recipes tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.decay = nn.Parameter(torch.zeros(4))
        self.mix = nn.Parameter(torch.zeros(1, 1, 4))
        self.frozen = nn.Parameter(torch.zeros(4, 4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x)) * self.mix


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.blocks = nn.ModuleList([Mix(), Mix()])
        self.head = nn.Linear(4, 2)

    def no_weight_decay(self) -> set[str]:
        return {"pos_*"}

    def group_matcher(self, coarse: bool = False) -> dict:
        return {"stem": r"^pos_embed", "blocks": [(r"^blocks\.(\d+)", None)]}


def decayed(model: nn.Module, config: OptimConfig) -> set[str]:
    """Names of decayed parameters; checks on the way that each trainable parameter is in exactly one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, config)
    grouped = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


MATRICES = {"head.weight", "blocks.0.linear.weight", "blocks.1.linear.weight", "blocks.0.mix", "blocks.1.mix"}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_each_recipe_decays_what_it_says(layer_decay: float | None) -> None:
    model = Backbone()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {
        "timm": MATRICES,
        "published": MATRICES | {"pos_embed", "blocks.0.decay", "blocks.1.decay"},
        "all": trainable,
        "none": set(),
    }
    for decay, names in expected.items():
        config = OptimConfig(decay=decay, weight_decay=0.1, layer_decay=layer_decay)  # type: ignore[arg-type]
        assert decayed(model, config) == names, decay


def test_exceptions_of_submodules_count_with_their_prefix() -> None:
    model = nn.ModuleDict({"visual": Backbone(), "text": nn.Linear(4, 4)})
    names = decayed(model, OptimConfig(decay="timm"))
    assert "visual.pos_embed" not in names
    assert {"text.weight", "visual.head.weight"} <= names


def test_layer_decay_scales_rates_by_depth() -> None:
    model = Backbone()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, OptimConfig(layer_decay=0.5, decay="published"))
    scales = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scales["head.weight"] == 1.0
    assert scales["blocks.1.decay"] == scales["blocks.1.linear.weight"] == 0.5
    assert scales["blocks.0.norm.bias"] == 0.25
    assert scales["pos_embed"] == 0.125


def test_the_update_decays_only_what_is_decayed() -> None:
    model = Backbone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = create_optimizer(model, OptimConfig(decay="published", weight_decay=0.5), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    values = {name: parameter.flatten()[0].item() for name, parameter in model.named_parameters()}
    assert values["blocks.0.decay"] == pytest.approx(0.95)
    assert values["blocks.0.norm.weight"] == values["head.bias"] == values["blocks.0.frozen"] == 1.0


def test_betas_and_eps_reach_the_optimizer_and_defaults_are_its_own() -> None:
    given = create_optimizer(Backbone(), OptimConfig(betas=(0.9, 0.98), eps=1e-6), lr=1.0)
    assert given.param_groups[0]["betas"] == (0.9, 0.98)
    assert given.param_groups[0]["eps"] == 1e-6
    assert create_optimizer(Backbone(), OptimConfig(), lr=1.0).param_groups[0]["betas"] == (0.9, 0.999)
    assert "betas" not in create_optimizer(Backbone(), OptimConfig("sgd", betas=(0.9, 0.98)), lr=1.0).param_groups[0]


def test_mistakes_are_input_errors() -> None:
    with pytest.raises(InputError, match=r"unknown optimizer 'adamm'.*did you mean 'ada"):
        create_optimizer(Backbone(), OptimConfig("adamm"), lr=1.0)
    with pytest.raises(InputError, match="group_matcher"):
        create_optimizer(nn.Linear(2, 2), OptimConfig(layer_decay=0.5), lr=1.0)
    with pytest.raises(InputError, match="no trainable parameter"):
        create_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimConfig(), lr=1.0)
