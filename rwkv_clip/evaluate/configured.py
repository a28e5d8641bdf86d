"""Evaluation on the sets that a configuration names: from a `SourceConfig` to numbers and what a report draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from rwkv_clip.data.build import build_source
from rwkv_clip.data.captioned import CaptionedSource
from rwkv_clip.data.config import SourceConfig
from rwkv_clip.data.evaluation import RetrievalSet, retrieval_from_labels, retrieval_from_pairs
from rwkv_clip.data.source import CaptionedImages
from rwkv_clip.data.transform import ImageTransform
from rwkv_clip.evaluate.embedding import embed_texts, unit_features
from rwkv_clip.evaluate.retrieval import RetrievalResult, image_text_retrieval
from rwkv_clip.evaluate.zero_shot import ZeroShotResult, class_embeddings, zero_shot_classification
from rwkv_clip.report import RetrievalExample, choose_examples
from vrwkv.data import EvaluationLoader
from vrwkv.data.skipped import Skipped
from vrwkv.errors import InputError
from vrwkv.evaluate.mode import evaluation_mode, progress


@dataclass
class Encoder:
    """A model with all that is needed to feed it.

    Attributes:
        model: on `device`.
        preprocess: PIL image -> (3, H, W).
        tokenizer: texts -> (N, context_length).
        device: where the model is.
        batch_size: images or texts encoded at once.
        num_workers: processes that decode images.
        max_corrupt_fraction: share of unreadable images to skip; more is an error.
    """

    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    device: torch.device | str = "cpu"
    batch_size: int = 256
    num_workers: int = 0
    max_corrupt_fraction: float = 0.01


@dataclass
class ZeroShotEvaluation:
    """Zero-shot classification of one labelled set: result, classes and unreadable images."""

    result: ZeroShotResult
    class_names: list[str]
    skipped: Skipped


@dataclass
class RetrievalEvaluation:
    """Retrieval on one set: result, a few queries with the images they found, unreadable images."""

    result: RetrievalResult
    examples: list[RetrievalExample]
    skipped: list[Skipped]
    """Samples without a caption, and unreadable images."""


def labelled_source(config: SourceConfig) -> CaptionedSource:
    """The labelled images that `config` names.

    Raises:
        InputError: data without classes.
    """
    source = build_source(replace(config, shuffle_captions=False))
    if not isinstance(source, CaptionedSource):
        raise InputError(
            f"zero-shot classification needs labelled images (kind folder or digits), not kind {config.kind}"
        )
    return source


def evaluate_zero_shot(
    encoder: Encoder, config: SourceConfig, class_names: Sequence[str] | None = None
) -> ZeroShotEvaluation:
    """Classify a labelled set by its class names in the set's templates.

    Args:
        encoder: the model.
        config: kind folder or digits.
        class_names: other words for the classes, in the order of the set's own.

    Raises:
        InputError: data that cannot be read, or another number of names than classes.
    """
    source = labelled_source(config)
    names = list(class_names or source.class_names)
    if len(names) != len(source.class_names):
        raise InputError(f"{len(names)} class names are given, but the data has {len(source.class_names)} classes")
    weights = class_embeddings(
        encoder.model, encoder.tokenizer, names, source.templates, encoder.device, encoder.batch_size
    )
    loader = _loader(encoder, source)
    result = zero_shot_classification(encoder.model, loader, weights, encoder.device)
    return ZeroShotEvaluation(result, names, loader.skipped)


def evaluate_retrieval(
    encoder: Encoder, config: SourceConfig, prefix: str = "", num_examples: int = 6
) -> RetrievalEvaluation:
    """Find captions from images and images from captions; any caption that belongs to an image counts.

    Args:
        encoder: the model.
        config: pairs, or labelled images, which are held against every class in every template.
        prefix: put before each caption, such as "a photo of " (published RWKV-CLIP).
        num_examples: queries to keep with the images they found.

    Raises:
        InputError: data that cannot be read, or no pair in it.
    """
    source = build_source(config)
    pairs = retrieval_set(source)
    images: Any = Subset(source, pairs.images)  # type: ignore[arg-type]
    loader = _loader(encoder, images)
    features, kept = [], []
    with evaluation_mode(encoder.model):
        for batch in progress(loader, "images", len(loader)):
            features.append(unit_features(encoder.model.encode_image, batch["image"], encoder.device).cpu())
            kept.extend(batch["index"].tolist())
    if not features:
        raise InputError("no image of the retrieval set can be read")
    image_features = torch.cat(features)
    # Corrupt images leave gaps: their pairs go, the others move up.
    row_of = {position: row for row, position in enumerate(kept)}
    relevant = [(row_of[image], caption) for image, caption in pairs.relevant if image in row_of]
    text_features = embed_texts(
        encoder.model, encoder.tokenizer, [prefix + text for text in pairs.captions], encoder.batch_size, encoder.device
    )
    result = image_text_retrieval(image_features, text_features, relevant)

    def load_image(row: int) -> Any:
        return images[kept[row]]["image"]

    examples = choose_examples(image_features, text_features, pairs.captions, relevant, load_image, num_examples)
    return RetrievalEvaluation(result, examples, [pairs.skipped, loader.skipped])


def retrieval_set(source: CaptionedImages) -> RetrievalSet:
    """Which captions belong to which images of `source`."""
    if isinstance(source, CaptionedSource):
        return retrieval_from_labels(source, source.templates)
    return retrieval_from_pairs(source)


def _loader(encoder: Encoder, source: Any) -> EvaluationLoader:
    return EvaluationLoader(
        source,
        ImageTransform(encoder.preprocess),
        batch_size=encoder.batch_size,
        num_workers=encoder.num_workers,
        max_corrupt_fraction=encoder.max_corrupt_fraction,
        pin_memory=torch.device(encoder.device).type == "cuda",
    )
