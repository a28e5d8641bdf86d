"""Faster and Mask R-CNN of torchvision over a Vision-RWKV, with the ViT-Adapter or with a simple feature pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from vrwkv.dense.adapter import VisionRWKVAdapter
from vrwkv.dense.pyramid import SimpleFeaturePyramid
from vrwkv.models.vision_rwkv import VisionRWKV

LEVELS = ("0", "1", "2", "3")
"""Maps that regions are cut from; region proposals also come from a fifth, half as large as the last of these."""
BOX_SIZE, MASK_SIZE = 7, 14
"""Side of the maps that the heads get of a region."""


class DetectionBackbone(nn.Module):
    """A Vision-RWKV, four maps of it, and a feature pyramid network: what torchvision calls a backbone.

    Args:
        body: a `VisionRWKVAdapter`, whose four maps are used, or a `VisionRWKV`, whose last map becomes four in a
            `SimpleFeaturePyramid`.
        out_channels: of the maps of the network.
    """

    def __init__(self, body: VisionRWKV, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.pyramid = None if isinstance(body, VisionRWKVAdapter) else SimpleFeaturePyramid(body.embed_dim)
        channels = [body.embed_dim] * len(LEVELS) if self.pyramid is None else self.pyramid.channels
        self.fpn = FeaturePyramidNetwork(channels, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> maps "0" to "3" and "pool" (B, out_channels, …); of patches of 16: strides 4 to 64."""
        maps = self.body(x) if self.pyramid is None else self.pyramid(*self.body.forward_maps(x, -1))
        return self.fpn(dict(zip(LEVELS, maps, strict=True)))


@dataclass(frozen=True)
class DetectorShape:
    """Sizes of everything in a detector above the backbone. The defaults are those of the released 1× recipes.

    Attributes:
        channels: of the feature pyramid network.
        box_dim: width of the two layers of the box head.
        mask_channels: of each of the four convolutions of the mask head.
        anchor_sizes: sides of the anchors of the five levels, pixels of the resized image.
        aspect_ratios: heights of the anchors over their widths.
        proposals: regions that an image keeps, also per level before suppression (twice as many there in training).
        sampled_anchors, sampled_regions: of an image that the losses are taken over.
        min_size: side that the shorter side of an image is brought to; in training one of several.
        max_size: limit for the longer side.
        score_threshold: detections with less are dropped.
        detections: of an image, at most.
    """

    channels: int = 256
    box_dim: int = 1024
    mask_channels: int = 256
    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512)
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    proposals: int = 1000
    sampled_anchors: int = 256
    sampled_regions: int = 512
    min_size: Sequence[int] = (800,)
    max_size: int = 1333
    score_threshold: float = 0.05
    detections: int = 100


class _OverRWKV(nn.Module):
    """What the training loop asks of a model, for a detector whose `backbone.body` is a `VisionRWKV`."""

    backbone: Any

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rates: patches and positions, each block, and all else on top."""
        return {
            "stem": r"^backbone\.body\.(?:cls_token|pos_embed|patch_embed|norm_pre)",
            "blocks": [(r"^backbone\.body\.blocks\.(\d+)", None)],
        }

    def no_weight_decay(self) -> set[str]:
        """Nothing beyond one-dimensional parameters and biases: positions decay, as in the released recipes."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block of the backbone in the backward pass instead of keeping its activations."""
        self.backbone.body.set_grad_checkpointing(enable)


class RWKVFasterRCNN(_OverRWKV, FasterRCNN):
    """torchvision's `FasterRCNN` (boxes only), as `create_rcnn` builds it."""


class RWKVMaskRCNN(_OverRWKV, MaskRCNN):
    """torchvision's `MaskRCNN` (boxes and masks), as `create_rcnn` builds it."""


def create_rcnn(
    body: VisionRWKV, num_classes: int, shape: DetectorShape | None = None, *, masks: bool = True
) -> RWKVFasterRCNN | RWKVMaskRCNN:
    """A detector in torchvision's form: `model(images, targets)` gives losses in training, detections in eval mode.

    Images are lists of (3, H, W) in [0, 1], of any sizes; the model resizes and normalises them itself.

    Args:
        body: a `VisionRWKVAdapter`, or a `VisionRWKV` without classifier.
        num_classes: including the background, which is class 0.
        shape: sizes of everything above the backbone.
        masks: with a mask head (Mask R-CNN), or boxes only (Faster R-CNN).
    """
    shape = shape or DetectorShape()
    anchors = AnchorGenerator(
        tuple((size,) for size in shape.anchor_sizes), (tuple(shape.aspect_ratios),) * len(shape.anchor_sizes)
    )
    settings = getattr(body, "pretrained_cfg", None) or {}
    arguments = {
        "backbone": DetectionBackbone(body, shape.channels),
        "min_size": tuple(shape.min_size),
        "max_size": shape.max_size,
        "image_mean": settings.get("mean", IMAGENET_DEFAULT_MEAN),
        "image_std": settings.get("std", IMAGENET_DEFAULT_STD),
        "rpn_anchor_generator": anchors,
        "rpn_pre_nms_top_n_train": 2 * shape.proposals,
        "rpn_post_nms_top_n_train": shape.proposals,
        "rpn_pre_nms_top_n_test": shape.proposals,
        "rpn_post_nms_top_n_test": shape.proposals,
        "rpn_batch_size_per_image": shape.sampled_anchors,
        "box_roi_pool": MultiScaleRoIAlign(LEVELS, BOX_SIZE, 2),
        "box_head": TwoMLPHead(shape.channels * BOX_SIZE**2, shape.box_dim),
        "box_predictor": FastRCNNPredictor(shape.box_dim, num_classes),
        "box_batch_size_per_image": shape.sampled_regions,
        "box_score_thresh": shape.score_threshold,
        "box_detections_per_img": shape.detections,
    }
    if not masks:
        return RWKVFasterRCNN(**arguments)
    return RWKVMaskRCNN(
        **arguments,
        mask_roi_pool=MultiScaleRoIAlign(LEVELS, MASK_SIZE, 2),
        mask_head=MaskRCNNHeads(shape.channels, (shape.mask_channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(shape.mask_channels, shape.mask_channels, num_classes),
    )
