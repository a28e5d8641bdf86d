"""Which caption belongs to which image: the ground truth of image-text retrieval."""

from collections.abc import Sequence
from dataclasses import dataclass

from rwkv_clip.data.source import CaptionedImages
from rwkv_clip.data.templates import Template, fill_template, resolve_templates
from vrwkv.data.skipped import Skipped
from vrwkv.data.source import CorruptSample, LabelledSource


@dataclass
class RetrievalSet:
    """Distinct images, distinct captions, and which belong together.

    Attributes:
        images: source index of each distinct image (its first sample), ascending.
        captions: the distinct captions, in order of first appearance.
        relevant: pairs (position in `images`, position in `captions`), distinct, ascending.
        skipped: samples without a usable caption, which take no part.
    """

    images: list[int]
    captions: list[str]
    relevant: list[tuple[int, int]]
    skipped: Skipped


def retrieval_from_pairs(source: CaptionedImages) -> RetrievalSet:
    """Group a source of pairs; no image is decoded.

    Samples with equal image keys (in a CSV, rows that name the same file) are one image, equal captions one caption;
    so an image can have several captions and a caption several images.
    """
    images: dict[str, int] = {}
    first_samples: list[int] = []
    captions: dict[str, int] = {}
    relevant: set[tuple[int, int]] = set()
    skipped = Skipped()
    for index in range(len(source)):
        try:
            texts = source.captions(index)
        except CorruptSample as error:
            skipped.add(index, error.name, error.reason)
            continue
        image = images.setdefault(source.image_key(index), len(images))
        if image == len(first_samples):
            first_samples.append(index)
        relevant.update((image, captions.setdefault(text, len(captions))) for text in texts)
    return RetrievalSet(first_samples, list(captions), sorted(relevant), skipped)


def retrieval_from_labels(source: LabelledSource, templates: str | Sequence[Template]) -> RetrievalSet:
    """Every image of a labelled source against every class in every template; relevant is what has the same class.

    Args:
        source: images with labels.
        templates: as for `resolve_templates`.
    """
    texts = resolve_templates(templates)
    captions: dict[str, int] = {}
    of_class = [
        sorted({captions.setdefault(fill_template(text, name), len(captions)) for text in texts})
        for name in source.class_names
    ]
    relevant = [(index, caption) for index, label in enumerate(source.labels) for caption in of_class[int(label)]]
    return RetrievalSet(list(range(len(source))), list(captions), relevant, Skipped())
