"""Imports point one way, and importing a package brings in no more than it promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What any layer may import of this project, and what each may besides, from the bottom up.
ANYWHERE = ("vrwkv.errors", "vrwkv.atomic_write", "vrwkv.device", "vrwkv.figure", "vrwkv.version")
BELOW = {
    "vrwkv.ops": (),
    "vrwkv.layers": ("vrwkv.ops",),
    "vrwkv.models": ("vrwkv.ops", "vrwkv.layers"),
    "vrwkv.data": (),
    "vrwkv.evaluate": (),
    "vrwkv.training": ("vrwkv.models", "vrwkv.data", "vrwkv.evaluate", "vrwkv.layers", "vrwkv.ops"),
    "vrwkv.dense": (
        "vrwkv.training",
        "vrwkv.models",
        "vrwkv.data",
        "vrwkv.evaluate",
        "vrwkv.layers",
        "vrwkv.ops",
    ),
    "vrwkv.export": ("vrwkv.data", "vrwkv.models", "vrwkv.layers", "vrwkv.ops"),
    "vrwkv.visualize": ("vrwkv.evaluate", "vrwkv.data", "vrwkv.models", "vrwkv.layers", "vrwkv.ops"),
    "vrwkv.objectives": (
        "vrwkv.dense",
        "vrwkv.training",
        "vrwkv.models",
        "vrwkv.data",
        "vrwkv.evaluate",
        "vrwkv.layers",
        "vrwkv.ops",
    ),
}


def project_imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] in ("vrwkv", "rwkv_clip", "tools")}


@pytest.mark.parametrize("layer", BELOW)
def test_imports_point_downwards(layer: str) -> None:
    allowed = (layer, *ANYWHERE, *BELOW[layer])
    for file in ROOT.joinpath(*layer.split(".")).rglob("*.py"):
        for name in project_imports(file):
            assert name.startswith(allowed), f"{file.relative_to(ROOT)} imports {name}"


def test_only_tools_and_language_import_commands() -> None:
    for file in ROOT.glob("vrwkv/**/*.py"):
        if not file.is_relative_to(ROOT / "vrwkv" / "commands"):
            assert not any(name.startswith("vrwkv.commands") for name in project_imports(file)), file


def test_vision_knows_nothing_of_language_and_nobody_imports_tools() -> None:
    for file in [*ROOT.glob("vrwkv/**/*.py"), *ROOT.glob("rwkv_clip/**/*.py")]:
        names = project_imports(file)
        assert not any(name.startswith("tools") for name in names), file
        if file.is_relative_to(ROOT / "vrwkv"):
            assert not any(name.startswith("rwkv_clip") for name in names), file


def test_importing_vrwkv_needs_none_of_the_extras() -> None:
    extras = [
        "open_clip",
        "tyro",
        "yaml",
        "grain",
        "sklearn",
        "matplotlib",
        "tensorboard",
        "tqdm_missing",
        "webdataset",
        "numba",
        "triton",
    ]
    program = f"""
import sys
for name in {extras!r}: sys.modules[name] = None
import vrwkv, timm
assert timm.is_model("vrwkv_tiny_patch16_224")
import torch
assert vrwkv.ops.available_backends("bi_wkv") == ["torch", "naive"], vrwkv.ops.explain_backends("bi_wkv")
model = timm.create_model("vrwkv_tiny_patch16_224", depth=1, embed_dim=32)
assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_importing_vrwkv_starts_no_compiler() -> None:
    program = "import sys, vrwkv; assert 'numba' not in sys.modules"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_importing_rwkv_clip_without_its_extra_says_what_to_install() -> None:
    program = "import sys; sys.modules['open_clip'] = None; import rwkv_clip"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'vrwkv[clip]'" in finished.stderr
