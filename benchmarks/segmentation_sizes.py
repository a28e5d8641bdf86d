"""What does it take to segment one large image whole, without sliding windows, next to a vision transformer?

`python benchmarks/segmentation_sizes.py` runs the same light head (two convolutions of 128 channels, 19 classes) on
VRWKV-T and on timm's ViT-T in mmsegmentation, float32 on the CPU, from 512 to 4096 pixels, and writes
docs/benchmarks/segmentation_sizes.md and .json. Every row is a fresh process with a time limit. Outputs are checked
before a time is printed: finite everywhere, and at 512 pixels equal to the portable backend's.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from cpu_accuracy import relative_error
from cpu_models import LARGEST_DIFFERENCE, images_of, portable_ops
from fresh_process import HOW_TIMED, timed
from size_table import SizeTable
from torch import nn

OURS, VIT = "VRWKV-T", "ViT-T"
SIZES = (512, 1024, 2048, 4096)
CLASSES = 19
CHECKED_UP_TO = 512
RECIPE = Path(__file__).parents[1] / "configs" / "segmentation" / "fcn_vrwkv_tiny_512_160k_ade20k.py"
HOW = (
    "Class scores of every pixel (`EncoderDecoder.encode_decode`: backbone at stride 16, FCN head of two convolutions "
    f"with 128 channels, {CLASSES} classes, enlarged to the image's size) and the best class of each, whole image, "
    f"float32, batch 1, random weights and pixels, eager. {HOW_TIMED} At {CHECKED_UP_TO} px the scores agree with the "
    "portable backend's (largest difference below, relative to the largest score). A model that did not finish within "
    "the limit was stopped, and its larger images were not tried."
)


def build(name: str) -> nn.Module:
    """The segmentor of the light recipe with this backbone, the same weights at every call, for inference."""
    warnings.filterwarnings("ignore")
    import vrwkv.dense.mmseg  # noqa: F401 - before anything of mmseg

    # isort: split
    import mmseg.models  # noqa: F401 - registers the heads
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    from vrwkv.dense.segmentation.config import load_segmentor_config

    model = load_segmentor_config(RECIPE, [f"model.decode_head.num_classes={CLASSES}"]).model
    model.backbone.pop("init_cfg")
    if name == VIT:
        model.backbone = {
            "type": "TIMMBackbone",
            "model_name": "vit_tiny_patch16_224",
            "features_only": True,
            "pretrained": False,
            "out_indices": (11,),
            "dynamic_img_size": True,
        }
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(model).eval()


def scores(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """(1, CLASSES, H, W)."""
    return model.encode_decode(image, [{"img_shape": tuple(image.shape[2:])}])  # type: ignore[operator]


def measure(name: str, size: int) -> dict[str, Any]:
    """Seconds, peak resident bytes and difference from the portable backend of one model at one size, in this process.

    Raises:
        SystemExit: an output is not finite, or too far from the portable backend's.
    """
    model, image = build(name), images_of(1, size)
    with torch.inference_mode():
        scores(model, images_of(1, 384))
        _, found = timed(lambda: scores(model, image).argmax(1), f"{name} at {size} px")
        result = scores(model, image) if size <= CHECKED_UP_TO else None
        if result is not None and not result.isfinite().all():
            raise SystemExit(f"{name} at {size} px: a score is not finite: not timed")
        difference = None
        if result is not None and name == OURS:
            with portable_ops():
                difference = relative_error(result, scores(model, image))
            if not difference <= LARGEST_DIFFERENCE:
                raise SystemExit(f"{name} at {size} px: {difference:.1e} from the portable backend: not timed")
    return {**found, "difference": difference}


TABLE = SizeTable(__file__, "Segmenting large images whole", HOW, OURS, VIT, SIZES, 32, measure)

if __name__ == "__main__":
    TABLE.main(__doc__)
