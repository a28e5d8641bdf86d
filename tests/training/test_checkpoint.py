import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import vrwkv.training.checkpoint as checkpoint_module
from vrwkv.errors import InputError
from vrwkv.training.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from vrwkv.training.config import OptimConfig
from vrwkv.training.optimizer import create_optimizer
from vrwkv.training.weights import load_weights, save_weights


class Tied(nn.Module):
    """A tied embedding, a buffer and a parameter that is a view of a larger storage."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, width)
        self.out = nn.Linear(width, 5, bias=False)
        self.out.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(width)
        self.view = nn.Parameter(torch.randn(2, 6)[:, ::2])

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.norm(self.embed(ids))) * self.view.sum()


def trained(name: str = "adamw", seed: int = 0, steps: int = 3) -> tuple[Tied, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Tied()
    optimizer = create_optimizer(model, OptimConfig(name), lr=1e-3)
    for _ in range(steps):
        train_step(model, optimizer)
    return model, optimizer


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.arange(5)).square().mean().backward()
    optimizer.step()


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    for (name, expected), actual in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(expected, actual), name


# timm's own NAdamW calls a method that the optimisers of the oldest supported torch do not have.
needs_newer_torch = pytest.mark.skipif(
    not hasattr(torch.optim.Optimizer, "_cuda_graph_capture_health_check"), reason="timm's nadamw needs a newer torch"
)


@pytest.mark.parametrize(
    "name",
    ["adamw", "sgd", "lamb", "lion", "adafactor", "lookahead_adamw", pytest.param("nadamw", marks=needs_newer_torch)],
)
def test_training_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path, name: str) -> None:
    model, optimizer = trained(name)
    path = save_checkpoint(tmp_path, 3, model, optimizer, extra={"a": 0.1})
    other, other_optimizer = trained(name, seed=1, steps=0)
    assert load_checkpoint(path, other, other_optimizer) == (3, {"a": 0.1})
    for _ in range(2):
        train_step(model, optimizer)
        train_step(other, other_optimizer)
    assert_same_state(model, other)
    assert other.out.weight is other.embed.weight


def test_files_hold_parameter_names_and_no_pickles(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save_checkpoint(tmp_path, 12, torch.compile(model), optimizer, ema=model)
    assert sorted(file.name for file in path.iterdir()) == [
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert path == tmp_path / "checkpoints" / "step_00000012"
    assert set(safetensors.torch.load_file(path / "model.safetensors")) == set(model.state_dict())
    names = safetensors.torch.load_file(path / "optimizer.safetensors")
    assert "state/embed.weight/exp_avg" in names
    groups = json.loads((path / "state.json").read_text())["optimizer"]["groups"]
    assert sorted(name for group in groups for name in group["parameters"]) == sorted(
        n for n, _ in model.named_parameters()
    )


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained()
    first = save_checkpoint(tmp_path, 1, model, optimizer, keep=1)
    for crashing in ("write_tensors", "flatten_optimizer", "_sync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_module, crashing, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                save_checkpoint(tmp_path, 2, model, optimizer, keep=1)
        assert first in list_checkpoints(tmp_path)
        load_checkpoint(latest_checkpoint(tmp_path) or first, *trained(seed=1, steps=0))
    assert list_checkpoints(tmp_path)[-1].name == "step_00000002"  # it crashed after the rename
    save_checkpoint(tmp_path, 3, model, optimizer, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]


def test_only_the_newest_are_kept_and_foreign_folders_stay(tmp_path: Path) -> None:
    model, optimizer = trained(steps=1)
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_99999999").mkdir()
    for step in (2, 10, 9, 100000000):
        save_checkpoint(tmp_path, step, model, optimizer, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000010", "step_100000000"]
    assert (tmp_path / "checkpoints" / "mine").is_dir()


def test_another_architecture_is_one_line_that_counts_and_names(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, *trained())
    other = Tied(width=6)
    other.extra = nn.Linear(2, 2)
    del other.norm
    with pytest.raises(InputError) as caught:
        load_checkpoint(path, other)
    message = str(caught.value)
    assert "2 missing (extra.weight, extra.bias)" in message
    assert "5 unexpected (norm." in message
    assert "2 of another shape (embed.weight (5, 4) instead of (5, 6)" in message
    assert "\n" not in message


def test_other_parameter_groups_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, *trained())
    model = Tied()
    with pytest.raises(InputError, match="other parameter groups"):
        load_checkpoint(path, model, create_optimizer(model, OptimConfig(decay="all"), lr=0.1))


def test_what_a_checkpoint_lacks_is_said(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, *trained())
    model, optimizer = trained(seed=1, steps=0)
    with pytest.raises(InputError, match="no averaged weights"):
        load_checkpoint(path, model, optimizer, ema=Tied())
    with pytest.raises(InputError, match="no loss scale"):
        load_checkpoint(path, model, optimizer, scaler=torch.amp.GradScaler("cpu"))
    (path / "state.json").write_text("{")
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        load_checkpoint(path, model)


def test_weights_round_trip_from_models_and_wrapped_state_dicts(tmp_path: Path) -> None:
    model, _ = trained()
    file = tmp_path / "new" / "model.safetensors"
    save_weights({f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}, file, {"architecture": "tied"})
    other = Tied()
    assert load_weights(torch.compile(other), file)["architecture"] == "tied"
    assert_same_state(model, other)
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]
    with pytest.raises(InputError, match="not found"):
        load_weights(other, tmp_path / "no.safetensors")
    file.write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_weights(other, file)
