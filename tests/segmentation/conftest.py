"""A segmentor small enough to train in a test, and the command that trains it."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

# Without the extra `seg` there is nothing to import; a skip in this file would stop all tests.
collect_ignore_glob = [] if find_spec("mmseg") else ["test_*.py"]

CONFIG = """
_base_ = ["{base}/digit_scenes_vrwkv.py"]
dataset = dict(data_root="{data}", scenes=(6, 4), size=(64, 64))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(batch_size=2, dataset=dataset)
test_dataloader = dict(batch_size=2, dataset=dataset)
model = dict(
    backbone=dict(img_size=64, embed_dim=32, depth=4, drop_path_rate=0.2),
    neck=dict(embed_dim=32),
    decode_head=dict(in_channels=[32] * 4, channels=8),
    auxiliary_head=dict(in_channels=32, channels=8),
)
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1), visualization=dict(interval=1))
"""


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write the small configuration, with further lines after it."""

    def write(further: str = "", name: str = "small.py") -> Path:
        base = Path(__file__).parents[2] / "configs" / "segmentation"
        file = tmp_path / name
        text = CONFIG.replace("{base}", str(base)).replace("{data}", str(tmp_path / "scenes"))
        file.write_text(text + further)
        return file

    return write
