"""The configuration that docs/dense_prediction.md gives for data of one's own trains on such data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrwkv.commands import train_segmentor as training

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[2]


def test_the_documented_configuration_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "dense_prediction.md").read_text()
    block = next(each for each in re.findall(r"```python\n(.*?)```", text, re.S) if "data_root=" in each)
    base = ROOT / "configs" / "segmentation" / "digit_scenes_vrwkv.py"
    (tmp_path / "own.py").write_text(block.replace("digit_scenes_vrwkv.py", str(base)))
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for name in ("images", "masks"):
            (tmp_path / "own" / split / name).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((140, 150), dtype=np.uint8)
            mask[generator.integers(90) :, generator.integers(90) :] = 1
            Image.fromarray(mask * 200).convert("RGB").save(tmp_path / f"own/{split}/images/{index}.jpg")
            Image.fromarray(mask).save(tmp_path / f"own/{split}/masks/{index}.png")
    monkeypatch.chdir(tmp_path)
    training.main(["own.py", "train_cfg.max_iters=2", "train_dataloader.batch_size=2"])
    results = json.loads((tmp_path / "runs/own/results.json").read_text())
    assert results.keys() == {"miou", "mean_accuracy", "pixel_accuracy"}
