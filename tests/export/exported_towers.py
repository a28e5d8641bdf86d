"""Small models away from their starting values, exported once, and a process in which vrwkv cannot be imported."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import vrwkv  # noqa: F401
from vrwkv.errors import InputError
from vrwkv.export import Tower, image_tower
from vrwkv.export.aot_inductor import check_compiler

SMALL = {"depth": 1, "embed_dim": 48, "num_classes": 10}

RUNS_FILE = """
import sys
sys.modules["vrwkv"] = sys.modules["rwkv_clip"] = None
import numpy as np
path, given, computed = sys.argv[1:]
inputs = np.load(given)
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: inputs})[0]
else:
    import torch
    if "aoti" in path:
        function = torch._inductor.aoti_load_package(path)
    else:
        function = torch.export.load(path).module()
    result = function(torch.from_numpy(inputs)).detach().numpy()
assert sys.modules["vrwkv"] is None
np.save(computed, result)
"""


def moved(model: nn.Module) -> nn.Module:
    """The model with every parameter moved, so that no branch is nearly zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
            if ".ls" in name:
                parameter.fill_(0.5)
    return model.eval()


def small_image_tower(name: str, **kwargs: object) -> Tower:
    return image_tower(moved(timm.create_model(name, **{**SMALL, **kwargs})))


def documented_example() -> list[str]:
    """The blocks of Python in docs/export.md: one that defines `prepare`, one that classifies photo.jpg."""
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


def draw_picture(width: int, height: int) -> Image.Image:
    """Smooth colours under noise, so that resizing, cropping and the order of channels all show."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x / width, y / height, (x + y) % 50 / 50], axis=-1)
    noise = np.random.default_rng(0).normal(0, 0.1, smooth.shape)
    return Image.fromarray((255 * np.clip(smooth + noise, 0, 1)).astype(np.uint8))


def skip_without_compiler() -> None:
    """Skip a test that needs a C++ compiler where there is none."""
    try:
        check_compiler()
    except InputError as error:
        pytest.skip(str(error))


def run_without_vrwkv(path: Path, inputs: Tensor) -> Tensor:
    """What the file computes in a process of its own that cannot import this project."""
    given, computed = path.with_suffix(".given.npy"), path.with_suffix(".computed.npy")
    np.save(given, inputs.numpy())
    command = [sys.executable, "-c", RUNS_FILE, str(path), str(given), str(computed)]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=path.parent)
    assert finished.returncode == 0, finished.stderr
    return torch.from_numpy(np.load(computed))
