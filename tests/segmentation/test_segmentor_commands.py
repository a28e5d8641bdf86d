"""Training, resuming and testing a segmentor through the commands."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vrwkv.dense.mmseg
from vrwkv.commands import test_segmentor as testing
from vrwkv.commands import train_segmentor as training
from vrwkv.dense.segmentation.exact_order import ExactSampler
from vrwkv.models import to_published

pytestmark = pytest.mark.filterwarnings("ignore")
WriteConfig = Callable[..., Path]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_run_ends_as_the_whole_one(workers: int, write_config: WriteConfig, tmp_path: Path) -> None:
    config = str(write_config())
    workers_override = f"train_dataloader.num_workers={workers}"
    training.main([config, workers_override, "--work-dir", str(tmp_path / "whole")])
    training.main([config, workers_override, "train_cfg.max_iters=2", "--work-dir", str(tmp_path / "parts")])
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    checkpoint = tmp_path / "parts" / "iter_2.pth"
    with pytest.raises(Exception, match=r"[Ww]eights"):
        torch.load(checkpoint)  # torch's own safe loading stays as strict as before
    training.main([config, workers_override, "--resume", "--work-dir", str(tmp_path / "parts")])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("whole", "parts")]
    assert results[0] == results[1]
    assert 0 <= results[0]["miou"] <= 1


def test_training_leaves_what_testing_needs(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    training.main([str(write_config()), "train_cfg.max_iters=2", "--work-dir", str(run)])
    trained = json.loads((run / "results.json").read_text())
    assert list(run.glob("*/vis_data/events.out.tfevents.*"))
    assert list(run.glob("*/vis_data/vis_image/*.png"))
    capsys.readouterr()
    drawings, maps = tmp_path / "drawings", tmp_path / "maps"
    testing.main([str(run), "--show-dir", str(drawings), "--out", str(maps)])
    assert "mean IoU" in capsys.readouterr().out
    tested = json.loads((run / "results.json").read_text())
    assert tested == pytest.approx(trained, abs=1e-6)
    assert len(list(drawings.rglob("*.png"))) == 4
    assert len(list(maps.glob("*.png"))) == 4
    tool = str(Path(__file__).parents[2] / "tools" / "test_segmentor.py")
    finished = subprocess.run([sys.executable, tool, str(run), "--tta"], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert {"miou", "tta_miou"} <= json.loads((run / "results.json").read_text()).keys()


def test_whole_segmentors_load_from_any_layout(write_config: WriteConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = str(write_config())
    training.main([config, "train_cfg.max_iters=2", "--work-dir", str(run)])
    expected = json.loads((run / "results.json").read_text())
    tensors = weights(run)
    from vrwkv.dense.segmentation.config import load_segmentor_config

    backbone = vrwkv.dense.mmseg.MODELS.build(load_segmentor_config(config).model.backbone)
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")})
    published = {f"backbone.{name}": tensor for name, tensor in to_published(backbone).items()}
    heads = {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.")}
    torch.save({"state_dict": published | heads, "meta": {}}, tmp_path / "published.pth")
    for number, file in enumerate((tmp_path / "published.pth", run / "iter_2.pth")):
        folder = tmp_path / f"test{number}"
        testing.main([config, "--checkpoint", str(file), "--work-dir", str(folder)])
        assert json.loads((folder / "results.json").read_text()) == pytest.approx(expected, abs=1e-6)


def test_fine_tuning_starts_from_a_whole_segmentor(write_config: WriteConfig, tmp_path: Path) -> None:
    config, first = str(write_config()), tmp_path / "first"
    training.main([config, "train_cfg.max_iters=2", "--work-dir", str(first)])
    overrides = ["train_cfg.max_iters=1", "optim_wrapper.optimizer.lr=0.0", f"load_from={first / 'model.safetensors'}"]
    training.main([config, *overrides, "--work-dir", str(tmp_path / "second")])
    one, two = weights(first), weights(tmp_path / "second")
    trained = [name for name in one if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(one[name], two[name]) for name in trained)


def test_two_processes_share_the_samples(write_config: WriteConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [str(write_config()), "train_cfg.max_iters=2", "--work-dir", str(run)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    tool = str(Path(__file__).parents[2] / "tools" / "train_segmentor.py")
    finished = subprocess.run([*torchrun, tool, *arguments], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("drawing 6 + 4 digit scenes") == 1
    assert finished.stdout.count("mean IoU") == 1
    assert "not a number" not in finished.stdout
    assert all(tensor.isfinite().all() for tensor in weights(run).values() if tensor.is_floating_point())
    whole = list(itertools.islice(ExactSampler(range(10), seed=3), 12))
    parts = []
    for rank in range(2):
        sampler = ExactSampler(range(10), seed=3)
        sampler.rank, sampler.world_size, sampler.start = rank, 2, 1
        parts.append(list(itertools.islice(sampler, 5)))
    assert [draw for pair in zip(*parts, strict=True) for draw in pair] == whole[2:]
    assert [draw.position for draw in parts[1]] == [3, 5, 7, 9, 11]
