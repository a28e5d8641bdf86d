"""Zero-shot classification: an image belongs to the class whose sentences lie nearest to it.

A class is represented by the mean over templates of its normalised prompt embeddings, normalised again. Scores are
cosines in float32. The script published with RWKV-CLIP stored 100 times the cosine in an integer tensor, which made
most classes tie; its numbers are therefore not comparable to the last digit.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rwkv_clip.evaluate.embedding import ImageTextModel, Tokenizer, check_batch_size, unit_features
from rwkv_clip.evaluate.prompts import Template, check_prompts, render_prompt
from vrwkv.errors import InputError
from vrwkv.evaluate.classify import ClassificationResult, Predictions
from vrwkv.evaluate.mode import evaluation_mode, progress


class ZeroShotResult(ClassificationResult):
    """A classification by class names in words."""

    def metrics(self) -> dict[str, float | int]:
        """The numbers under their names in results.json, such as zero_shot_top1."""
        return {f"zero_shot_{name}": number for name, number in super().metrics().items()}


def class_embeddings(
    model: ImageTextModel,
    tokenizer: Tokenizer,
    class_names: Sequence[str],
    templates: Sequence[Template],
    device: torch.device | str = "cpu",
    batch_size: int = 256,
) -> Tensor:
    """normalize(mean over templates(normalize(text embedding))) of each class.

    Prompts are made, tokenised and encoded `batch_size` at a time, so memory does not grow with classes x templates.

    Args:
        model: on `device` already.
        tokenizer: maps strings to token ids.
        class_names: C distinct names.
        templates: format strings with `{}` or `{c}`, or functions of the class name.
        device: where the token ids are moved to.
        batch_size: prompts encoded at once.

    Returns:
        (C, D) float32 on the CPU, rows of length 1.

    Raises:
        InputError: class names or templates that `check_prompts` refuses, or a batch size below 1.
    """
    check_prompts(class_names, templates)
    check_batch_size(batch_size)
    num_prompts = len(class_names) * len(templates)
    sums: Tensor | None = None
    with evaluation_mode(model):
        for start in progress(range(0, num_prompts, batch_size), "prompts"):
            positions = range(start, min(start + batch_size, num_prompts))
            owners = torch.tensor([position // len(templates) for position in positions])
            prompts = [
                render_prompt(templates[position % len(templates)], class_names[position // len(templates)])
                for position in positions
            ]
            features = unit_features(model.encode_text, tokenizer(prompts), device).cpu()
            if sums is None:
                sums = torch.zeros(len(class_names), features.shape[1], dtype=torch.float64)
            sums.index_add_(0, owners, features.double())
    assert sums is not None
    return F.normalize(sums / len(templates), dim=-1).float()


def zero_shot_classification(
    model: ImageTextModel,
    batches: Iterable[Mapping[str, Tensor]],
    class_weights: Tensor,
    device: torch.device | str = "cpu",
) -> ZeroShotResult:
    """Classify labelled images by their nearest class embedding.

    Args:
        model: on `device` already.
        batches: each with "image" (B, 3, H, W), preprocessed, and "label" (B,), indices into the classes.
        class_weights: (C, D) from `class_embeddings`.
        device: where images and class weights are moved to.

    Raises:
        InputError: no images, batches without labels, or a label that is no class.
    """
    weights = class_weights.to(device, torch.float32)
    predictions = Predictions()
    with evaluation_mode(model):
        for batch in progress(batches, "zero-shot"):
            if "label" not in batch:
                raise InputError("zero-shot classification needs a labelled evaluation set, and this one has no labels")
            features = unit_features(model.encode_image, batch["image"], device)
            with torch.inference_mode(), torch.autocast(features.device.type, enabled=False):
                predictions.add(features @ weights.T, batch["label"])
    return predictions.result(ZeroShotResult)
