"""Every configuration of configs/segmentation builds a model that learns and predicts, at a reduced size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import nn

import vrwkv.dense.mmseg  # noqa: F401 - before anything of mmseg
from vrwkv.dense.segmentation.config import dicts_of_type, fit_to_machine, load_segmentor_config
from vrwkv.errors import InputError

# isort: split

import mmseg.models  # noqa: F401 - registers the heads
from mmengine.optim import build_optim_wrapper
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from mmseg.structures import SegDataSample

pytestmark = pytest.mark.filterwarnings("ignore")
FOLDER = Path(__file__).parents[2] / "configs" / "segmentation"
FILES = sorted(file.name for file in FOLDER.glob("*.py"))
PUBLISHED = {"tiny": 8_404_592, "small": 29_264_528, "base": 106_555_616, "large": 351_894_720}
WIDTH = 48


def build(model: Any) -> nn.Module:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(model)


def reduced(model: Any) -> Any:
    """The model's configuration with narrow, shallow parts of the same kinds."""
    backbone = model.backbone
    backbone.pop("init_cfg", None)
    if backbone.type == "ResNetV1c":
        return model
    backbone.embed_dim = WIDTH
    backbone.depth = 4
    if "out_indices" in backbone:
        backbone.out_indices = (0, 1, 2, 3) if len(backbone.out_indices) == 4 else (3,)
    if "deform_num_heads" in backbone:
        backbone.update(deform_num_heads=4, deform_ratio=0.5, conv_inplane=8)
    if model.get("neck"):
        model.neck.embed_dim = WIDTH
    for head in (model.decode_head, model.get("auxiliary_head")):
        if head:
            head.channels = 16
            head.in_channels = [WIDTH] * 4 if isinstance(head.in_channels, list) else WIDTH
    return model


@pytest.mark.parametrize("name", FILES)
def test_model_learns_and_predicts(name: str) -> None:
    config = load_segmentor_config(FOLDER / name)
    classes = config.model.decode_head.num_classes
    config.model.data_preprocessor.size = (64, 64)
    model = build(reduced(config.model))
    model.init_weights()
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "pad_shape": (64, 64)})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, 64, 64)))
        samples.append(sample)
    data = {"inputs": [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 2, "data_samples": samples}
    model.train()
    losses, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode="loss"))
    losses.backward()
    assert torch.isfinite(losses)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
    wrapper = dict(config.optim_wrapper, type="OptimWrapper")
    optimizer = build_optim_wrapper(model, {key: wrapper[key] for key in wrapper if key not in ("dtype", "loss_scale")})
    groups = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert groups >= {id(parameter) for parameter in model.parameters()}
    model.eval()
    # timm's ViT takes multiples of its patch size only; ours any size.
    shape = (48, 72) if name == "digit_scenes_vit.py" else (50, 70)
    metainfo = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape}
    image = torch.zeros(3, *shape, dtype=torch.uint8)
    result = model.test_step({"inputs": [image], "data_samples": [SegDataSample(metainfo=metainfo)]})[0]
    assert result.pred_sem_seg.data.shape == (1, *shape)
    assert int(result.pred_sem_seg.data.max()) < classes


@pytest.mark.parametrize("name", FILES)
def test_data_and_schedule_fit_the_model(name: str) -> None:
    config = load_segmentor_config(FOLDER / name)
    last = config.param_scheduler[-1]
    assert last.end == config.train_cfg.max_iters
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = DATASETS.get(config.train_dataloader.dataset.type)
        assert len(dataset.METAINFO["classes"]) == config.model.decode_head.num_classes
        for step in [*config.train_pipeline, *config.test_pipeline, *config.tta_pipeline]:
            assert TRANSFORMS.get(step.type) is not None, step.type
    for head in dicts_of_type(config.model, "FCNHead"):
        assert head["num_classes"] == config.model.decode_head.num_classes


@pytest.mark.parametrize("size", PUBLISHED)
@pytest.mark.parametrize("recipe", ["512_160k_ade20k", "1024_160k_cityscapes"])
def test_adapters_have_the_published_size(size: str, recipe: str) -> None:
    config = load_segmentor_config(FOLDER / f"upernet_vrwkv_adapter_{size}_{recipe}.py")
    with torch.device("meta"):
        model = build({**config.model, "backbone": {**config.model.backbone, "init_cfg": None}})
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) == PUBLISHED[size]


def test_the_published_recipe() -> None:
    """Numbers of arXiv 2403.02308's released configurations for ADE20K."""
    expected = {
        "tiny": (1.2e-4, 0.95, 0.1),
        "small": (6e-5, 0.85, 0.2),
        "base": (6e-5, 0.8, 0.3),
        "large": (6e-5, 0.9, 0.4),
    }
    for size, (lr, decay, drop_path) in expected.items():
        config = load_segmentor_config(FOLDER / f"upernet_vrwkv_adapter_{size}_512_160k_ade20k.py")
        assert config.optim_wrapper.optimizer.lr == lr
        assert config.optim_wrapper.optimizer.weight_decay == 0.01
        assert config.optim_wrapper.paramwise_cfg.decay_rate == decay
        assert config.model.backbone.drop_path_rate == drop_path
        assert config.optim_wrapper.loss_scale.init_scale == 512
        warm_up, poly = config.param_scheduler
        assert (warm_up.end, warm_up.start_factor, poly.power, poly.begin) == (1500, 1e-6, 1.0, 1500)
        assert config.model.test_cfg == {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)}
        assert config.train_cfg.max_iters == 160000


def test_without_a_gpu_published_recipes_train_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = load_segmentor_config(FOLDER / "upernet_vrwkv_adapter_tiny_512_160k_ade20k.py")
    changes = fit_to_machine(config)
    assert changes == ["no GPU: training in float32 instead of mixed precision"]
    assert config.optim_wrapper.type == "OptimWrapper"
    assert not {"loss_scale", "dtype"} & config.optim_wrapper.keys()
    assert (config.launcher, config.env_cfg.dist_cfg.backend) == ("none", "gloo")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = load_segmentor_config(FOLDER / "upernet_vrwkv_adapter_tiny_512_160k_ade20k.py")
    assert fit_to_machine(config) == []
    assert config.optim_wrapper.type == "AmpOptimWrapper"
    assert (config.launcher, config.env_cfg.dist_cfg.backend, config.sync_bn) == ("pytorch", "nccl", "torch")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = dict(", "cannot read .*never closed"),
        ("_base_ = ['nowhere.py']", "cannot read .*nowhere.py"),
        ("a = 1", "has no `model`"),
        ("custom_imports = dict(imports=['vrwkv.nowhere'])\nmodel = dict()", "cannot read .*vrwkv.nowhere"),
    ],
)
def test_files_that_are_no_configuration(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        load_segmentor_config(file)
