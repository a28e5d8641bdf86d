"""The released weight files: where each one is published, and what is known of its content."""

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from vrwkv.errors import InputError

VISION_REPOSITORY = "OpenGVLab/Vision-RWKV"


@dataclass(frozen=True)
class PublishedFile:
    """One released file on the Hugging Face hub."""

    name: str
    """How we call it: the file's own name, or the repository's for RWKV-CLIP, whose files are all called alike."""
    repository: str
    filename: str
    model: str
    """timm name of the model, of the backbone, or of the image tower, with the tag of these weights."""
    tensors: int
    """In the state dict; of an adapter, below `backbone.`."""
    parameters: int
    """Of the whole model; of an adapter, below `backbone.`."""
    sha256: tuple[str, str] | None = None
    """First and last hexadecimal digits of the file's SHA-256, as far as they are known."""

    def has_digest(self, digest: str) -> bool | None:
        """Whether `digest` can be this file's; None where nothing is known."""
        if self.sha256 is None:
            return None
        return digest.startswith(self.sha256[0]) and digest.endswith(self.sha256[1])


def _classifier(filename: str, model: str, tensors: int, parameters: int) -> PublishedFile:
    return PublishedFile(filename, VISION_REPOSITORY, filename, model, tensors, parameters)


def _adapters(size: str, model: str, tensors: int, parameters: int) -> tuple[PublishedFile, ...]:
    names = (f"mask_rcnn_vrwkv_adapter_{size}_fpn_1x_coco.pth", f"upernet_vrwkv_adapter_{size}_512_160k_ade20k.pth")
    return tuple(PublishedFile(name, VISION_REPOSITORY, name, model, tensors, parameters) for name in names)


def _clip(name: str, model: str, parameters: int, sha256: tuple[str, str] | None = None) -> PublishedFile:
    return PublishedFile(name, f"Kaichengalex/{name}", "model_31.pt", model, 517, parameters, sha256)


CLASSIFIERS = (
    _classifier("vrwkv_t_in1k_224.pth", "vrwkv_tiny_patch16_224.in1k", 225, 6_155_176),
    _classifier("vrwkv_s_in1k_224.pth", "vrwkv_small_patch16_224.in1k", 249, 23_820_136),
    _classifier("vrwkv_b_in1k_224.pth", "vrwkv_base_patch16_224.in1k", 249, 93_645_544),
    _classifier("vrwkv_l_22kto1k_384.pth", "vrwkv_large_patch16_384.in22k_ft_in1k", 587, 334_881_768),
    _classifier("vrwkv_l_in22k_192.pth", "vrwkv_large_patch16_384.in22k_192", 587, 398_926_161),
    _classifier("vrwkv6_t_in1k_224.pth", "vrwkv6_tiny_patch16_224.in1k", 345, 7_641_256),
    _classifier("vrwkv6_s_in1k_224.pth", "vrwkv6_small_patch16_224.in1k", 369, 27_677_032),
    _classifier("vrwkv6_b_in1k_224.pth", "vrwkv6_base_patch16_224.in1k", 369, 104_898_280),
)
ADAPTERS = (
    *_adapters("tiny", "vrwkv_tiny_patch16_224", 484, 8_404_592),
    *_adapters("small", "vrwkv_small_patch16_224", 484, 29_264_528),
    *_adapters("base", "vrwkv_base_patch16_224", 484, 106_555_616),
    *_adapters("large", "vrwkv_large_patch16_384", 820, 351_894_720),
)
IMAGE_TEXT = (
    _clip("RWKV-CLIP-B32-YFCC15M", "rwkv_clip_base_patch32_224.yfcc15m", 149_561_601, sha256=("b6977684", "3a2df")),
    _clip("RWKV-CLIP-B32-LAION10M", "rwkv_clip_base_patch32_224.laion10m", 149_561_601),
    _clip("RWKV-CLIP-B32-LAION30M", "rwkv_clip_base_patch32_224.laion30m", 149_561_601),
    _clip("RWKV-CLIP-B16-LAION10M", "rwkv_clip_base_patch16_224.laion10m", 148_181_121, sha256=("0865ab31", "6ff6")),
)
PUBLISHED_FILES = {file.name: file for file in (*CLASSIFIERS, *ADAPTERS, *IMAGE_TEXT)}


def published_file(name: str) -> PublishedFile:
    """The released file of that name.

    Raises:
        InputError: there is none; the nearest names are given.
    """
    if name not in PUBLISHED_FILES:
        near = " or ".join(repr(other) for other in get_close_matches(name, PUBLISHED_FILES, 3, 0.0))
        raise InputError(f"{name!r} is no published file; did you mean {near}?")
    return PUBLISHED_FILES[name]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
