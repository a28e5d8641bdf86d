"""Published layouts to our folders and back to the bit; what is checked on the way; what is refused."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from published_layouts import (
    LARGE,
    LAYOUTS,
    SMALL,
    adapter_parts,
    below_backbone,
    internimage,
    mmcv,
    random_model,
    write,
)
from torch import Tensor

import vrwkv
from vrwkv import InputError
from vrwkv.commands.convert_checkpoint import main
from vrwkv.models.containers import read_state_dict
from vrwkv.models.conversion import same_bits
from vrwkv.models.formula_agreement import agreement_range, formula_difference
from vrwkv.models.published_architecture import architecture_name, constructor_arguments, empty_model
from vrwkv.models.published_files import ADAPTERS, CLASSIFIERS, PublishedFile

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")
TINY, LARGE_NAME = "vrwkv_tiny_patch16_224", "vrwkv_large_patch16_384"


def convert(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def assert_same_file(state_dict: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(state_dict) == list(other)
    for name, tensor in state_dict.items():
        assert same_bits(tensor, other[name]), name


@pytest.mark.parametrize(
    ("layout", "legacy"), [*((layout, False) for layout in LAYOUTS), ("VRWKV-T", True), ("VRWKV-L", True)]
)
def test_there_and_back(layout: str, legacy: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, ours, back = tmp_path / "published.pth", tmp_path / "ours", tmp_path / "back.pth"
    name, state_dict = write(layout, source, legacy)
    convert(source, "--output", ours, "--model", name)
    assert f"all {len(state_dict)} tensors to the bit" in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{ours}", pretrained=True).eval()
    adapter = layout in ("UperNet", "Mask R-CNN")
    trunk = {n: t for n, t in state_dict.items() if n.removeprefix("backbone.") in vrwkv.to_published(model)}
    reference = timm.create_model(
        name, **constructor_arguments({n.removeprefix("backbone."): t for n, t in trunk.items()})
    )
    vrwkv.load_published(reference, trunk)
    x = torch.randn(2, 3, 50, 40)
    assert torch.equal(model(x), reference.eval()(x))
    assert (ours / "other_parts.safetensors").exists() == adapter
    convert(ours, "--to", "published", "--output", back)
    container = torch.load(back, weights_only=True)
    assert ("state_dict" in container) == (layout not in ("VRWKV-L", "VRWKV-L 22k"))
    assert_same_file(state_dict, read_state_dict(back))


def test_a_whole_tiny_model_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, file in (
        ("vrwkv_tiny_patch16_224", "vrwkv_t_in1k_224.pth"),
        ("vrwkv6_tiny_patch16_224", "vrwkv6_t_in1k_224.pth"),
    ):
        torch.save(mmcv(below_backbone(random_model(name))), tmp_path / file)
        convert(tmp_path / file, "--output", tmp_path / name, "--published-file", file)
        out = capsys.readouterr().out
        assert f"as in {file}" in out
        assert "warning" not in out
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert (config["architecture"], config["pretrained_cfg"]["input_size"]) == (name, [3, 224, 224])


@pytest.mark.parametrize("file", CLASSIFIERS, ids=lambda file: file.name)
def test_counts_of_released_classifiers(file: PublishedFile) -> None:
    with torch.device("meta"):
        released = timm.create_model(file.model)
    published = vrwkv.to_published(released)
    arguments = constructor_arguments(published)
    model = empty_model(architecture_name(arguments), arguments)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in released.state_dict().items()}
    assert type(model.blocks[0].ls1) is type(released.blocks[0].ls1)
    assert (len(published), sum(tensor.numel() for tensor in published.values())) == (file.tensors, file.parameters)


@pytest.mark.parametrize("file", ADAPTERS, ids=lambda file: file.name)
def test_counts_of_released_adapters(file: PublishedFile) -> None:
    heads, ratio = {"tiny": (6, 1.0), "small": (6, 1.0), "base": (12, 0.5), "large": (16, 0.5)}[
        file.model.split("_")[1]
    ]
    trunk = empty_model(file.model, {"num_classes": 0, "init_values": 1.0, "final_norm": False})
    parts = adapter_parts(trunk.embed_dim, heads, ratio)
    learnt = [shape for name, shape in parts.items() if "running" not in name and "tracked" not in name]
    assert len(trunk.state_dict()) + len(parts) == file.tensors
    assert (
        sum(t.numel() for t in trunk.parameters()) + sum(torch.Size(shape).numel() for shape in learnt)
        == file.parameters
    )


def test_formula_averages_and_input_size(tmp_path: Path) -> None:
    raw, averaged = random_model(LARGE_NAME, 1, **LARGE), random_model(LARGE_NAME, **LARGE)
    torch.save(internimage(raw, averaged), tmp_path / "l.pth")
    for weights, expected in (("raw", raw), ("averaged", averaged)):
        options = ("--model", LARGE_NAME, "--formula", "published", "--weights", weights)
        convert(tmp_path / "l.pth", "--output", tmp_path / weights, *options)
        model = timm.create_model(f"local-dir:{tmp_path / weights}", pretrained=True)
        assert model.blocks[1].spatial_mix.formula == "published"
        assert torch.equal(model.head[2].weight, expected.head[2].weight)
        assert model.pretrained_cfg["classifier"] == "head.2"


@pytest.mark.parametrize("head", ["UperNet", "Mask R-CNN"])
def test_adapters_see_their_own_image_size(head: str, tmp_path: Path) -> None:
    write(head, tmp_path / "adapter.pth", legacy=False)
    convert(tmp_path / "adapter.pth", "--output", tmp_path / "ours", "--model", TINY)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == ([3, 512, 512] if head == "UperNet" else [3, 800, 1344])
    assert config["model_args"]["final_norm"] is False
    assert config["model_args"]["init_values"] is not None


def test_weights_of_our_own_have_a_published_form(tmp_path: Path) -> None:
    model = random_model(TINY, **SMALL)
    torch.save(mmcv(below_backbone(model)), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", "--output", tmp_path / "ours", "--model", TINY)
    (tmp_path / "ours" / "published.json").unlink()
    convert(tmp_path / "ours", "--to", "published", "--output", tmp_path / "b.pth")
    assert_same_file(below_backbone(model), torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"])


def test_half_precision_and_flat_mixes_come_back(tmp_path: Path) -> None:
    state_dict = {
        f"module.{name}": (tensor.flatten() if "_mix_" in name else tensor).to(torch.float16 if "key" in name else None)
        for name, tensor in below_backbone(random_model(TINY, **SMALL)).items()
    }
    torch.save(state_dict, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", "--output", tmp_path / "ours", "--model", TINY)
    convert(tmp_path / "ours", "--to", "published", "--output", tmp_path / "b.pth")
    assert_same_file(state_dict, torch.load(tmp_path / "b.pth", weights_only=True))


def test_decays_beyond_agreement_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low, high = agreement_range(196)
    assert 5 <= high <= 20  # by the table of the released kernels: 3e-3 at 5, 3e-2 at 20
    assert low <= -5
    model = random_model(TINY, **{**SMALL, "img_size": 224})
    with torch.no_grad():
        model.blocks[1].spatial_mix.decay[:3] = high + 1
    torch.save(mmcv(below_backbone(model)), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", "--output", tmp_path / "ours", "--model", TINY)
    assert "warning: 3 of 32 decays (layers 1) lie outside" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num_tokens", "decay", "released"),
    [(49, 10, 9e-2), (196, 10, 7e-3), (196, 20, 3e-2), (576, 20, 1e-2), (576, -5, 4e-4)],
)
def test_difference_of_the_formulas(num_tokens: int, decay: float, released: float) -> None:
    found = float(formula_difference(torch.tensor([float(decay)]), num_tokens, samples=16))
    assert released / 12 < found < released * 3


def hub(files: dict[tuple[str, str], Path]) -> Callable[..., str]:
    from huggingface_hub.errors import EntryNotFoundError

    def download(repo_id: str, filename: str, **_: Any) -> str:
        if (repo_id, filename) not in files:
            raise EntryNotFoundError(f"{repo_id} has no {filename}")
        return str(files[repo_id, filename])

    return download


@pytest.mark.parametrize(
    ("file", "legacy"),
    [(file, index % 2 == 0) for index, file in enumerate(CLASSIFIERS)],
    ids=[file.name for file in CLASSIFIERS],
)
def test_timm_reads_the_hub_files(
    file: PublishedFile, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SMALL, "num_classes": timm.get_pretrained_cfg(file.model).num_classes}
    if "vrwkv6" in file.model:
        options |= {"embed_dim": 64, "num_heads": 1}
    if "large" in file.model:
        options |= {"head_hidden_dim": 4}
    model = random_model(file.model, **options)
    content = (
        internimage(random_model(file.model, 1, **options), model)
        if "large" in file.model
        else mmcv(below_backbone(model))
    )
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    download = hub({("OpenGVLab/Vision-RWKV", file.name): tmp_path / "weights.pth"})
    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    loaded = timm.create_model(file.model, pretrained=True, **options)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_no_version_of_timm_runs_code_of_a_hub_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'witness'}",)

    def careless(*_: object, **__: object) -> object:
        return torch.load(tmp_path / "bad.pth", weights_only=False)

    torch.save({"state_dict": below_backbone(random_model(TINY, **SMALL)), "meta": Malicious()}, tmp_path / "bad.pth")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", careless)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(pickle.UnpicklingError, match="system"):
        timm.create_model(TINY, pretrained=True, **SMALL)
    assert not (tmp_path / "witness").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def damaged(path: Path) -> list[object]:
    torch.save(mmcv(below_backbone(random_model(TINY, **SMALL))), path)
    path.write_bytes(path.read_bytes()[:-3000])
    return ["--model", TINY]


def foreign(path: Path) -> list[object]:
    torch.save({"cls_token": torch.zeros(1, 1, 8), "blocks_0.attn.qkv.weight": torch.zeros(24, 8)}, path)
    return []


def ours(path: Path) -> list[object]:
    torch.save(random_model(TINY, **SMALL).state_dict(), path)
    return ["--model", TINY]


def text_tower(path: Path) -> list[object]:
    torch.save({"text_model.emb.weight": torch.zeros(2, 2)}, path)
    return []


def saved(name: str, *arguments: object, drop: str | None = None, **options: Any) -> Callable[[Path], list[object]]:
    def build(path: Path) -> list[object]:
        state_dict = below_backbone(random_model(name, **{**SMALL, **options}))
        torch.save(mmcv({key: tensor for key, tensor in state_dict.items() if key != drop}), path)
        return list(arguments)

    return build


V6 = {"embed_dim": 64, "num_heads": 1}
FILE = "vrwkv_t_in1k_224.pth"
CLIP_FILE = "RWKV-CLIP-B32-YFCC15M"
V6_NAME = "vrwkv6_tiny_patch16_224"
REFUSALS = [
    (damaged, "cannot be read as weights"),
    (foreign, "these are no Vision-RWKV weights: patch_embed.projection.weight is missing (found cls_token, "),
    (lambda path: path.write_text("<html>") and [], "cannot be read as weights"),
    (lambda path: [], "does not exist"),
    (ours, "has our names already"),
    (text_tower, "needs open_clip: pip install 'vrwkv[clip]'"),
    (saved(TINY), "no published model has mixer bi_wkv, width 16 and depth 2"),
    (saved(TINY, "--model", f"{TINY}5"), f"model '{TINY}5' is unknown; did you mean '{TINY}' or"),
    (saved(TINY, "--model", "vit_base"), "model 'vit_base' is unknown; did you mean '"),
    (saved(TINY, "--model", TINY, drop="backbone.ln1.bias"), "1 missing: norm.bias"),
    (saved(TINY, "--published-file", "vrwkv_t"), f"'vrwkv_t' is no published file; did you mean '{FILE}' or"),
    (saved(TINY, "--model", TINY, "--published-file", FILE), f"is not {FILE}: 45 tensors and"),
    (saved(TINY, "--model", TINY, "--published-file", CLIP_FILE), "not b6977684…3a2df"),
    (saved(V6_NAME, "--model", V6_NAME, "--formula", "published", **V6), "one formula only"),
]


@pytest.mark.parametrize(("build", "message"), REFUSALS)
def test_refusals_are_one_line_and_leave_nothing(
    build: Callable[[Path], list[object]], message: str, tmp_path: Path, mistake: Callable
) -> None:
    arguments = build(tmp_path / "source.pth")
    before = sorted(tmp_path.iterdir())
    given = (tmp_path / "source.pth", "--output", tmp_path / "ours", *arguments)
    assert message in mistake(main, [str(argument) for argument in given])
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    options = saved(TINY, "--model", TINY)(tmp_path / "a.pth")
    convert(tmp_path / "a.pth", "--output", tmp_path / "ours", *options)
    with pytest.raises(InputError, match="is not empty"):
        convert(tmp_path / "a.pth", "--output", tmp_path / "ours", *options)
    with pytest.raises(InputError, match="exists already"):
        convert(tmp_path / "ours", "--to", "published", "--output", tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        convert(tmp_path, "--to", "published", "--output", tmp_path / "b.pth")


def test_the_vision_part_needs_no_open_clip(tmp_path: Path) -> None:
    options = saved(TINY, "--model", TINY)(tmp_path / "a.pth")
    # What is not installed has no spec; a finder that answers nothing for open_clip is as good as an empty environment.
    program = """
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "open_clip" else find(name, *rest)
sys.modules["open_clip"] = None
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
    tool = str(Path(__file__).parents[2] / "tools" / "convert_checkpoint.py")
    files = [str(tmp_path / "a.pth"), "--output", str(tmp_path / "ours"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", program, tool, *files], capture_output=True, text=True, env=environment
    )
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "ours" / "model.safetensors").is_file()
