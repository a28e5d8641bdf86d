"""A few image files against a few class names: what `zero_shot.py RUN --image a.png --classes cat dog` prints."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rwkv_clip.evaluate.embedding import ImageTextModel, Tokenizer, check_batch_size, unit_features
from rwkv_clip.evaluate.prompts import Template
from rwkv_clip.evaluate.zero_shot import class_embeddings
from vrwkv.data.image_file import read_image
from vrwkv.errors import InputError
from vrwkv.evaluate.mode import evaluation_mode


def classify_images(
    model: ImageTextModel,
    preprocess: Callable[[Image.Image], Tensor],
    tokenizer: Tokenizer,
    images: Sequence[Path],
    class_names: Sequence[str],
    templates: Sequence[Template],
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> list[list[tuple[str, float]]]:
    """The classes of each image with their probabilities, best first.

    The probability is softmax over the classes of exp(logit_scale) times the cosine, in float32. Classes of equal score
    stand in the order given.

    Args:
        model: on `device` already.
        preprocess: maps a PIL image to the model's input (3, H, W).
        tokenizer: maps strings to token ids.
        images: image files.
        class_names: C distinct names.
        templates: as `class_embeddings`.
        device: where inputs are moved to.
        batch_size: images, and prompts, encoded at once.

    Raises:
        InputError: no images, an unreadable one, or class names or templates that `class_embeddings` refuses.
    """
    if not images:
        raise InputError("no image files given")
    check_batch_size(batch_size)
    weights = class_embeddings(model, tokenizer, class_names, templates, device, batch_size).to(device)
    ranked = []
    with evaluation_mode(model):
        for start in range(0, len(images), batch_size):
            pixels = torch.stack([preprocess(read_image(path)) for path in images[start : start + batch_size]])
            features = unit_features(model.encode_image, pixels, device)
            with torch.inference_mode(), torch.autocast(features.device.type, enabled=False):
                logits = (model.logit_scale.float().exp() * features @ weights.T).cpu()
            # Ranked by logit, because far-off classes may all round to a probability of 0.
            order = logits.argsort(dim=1, descending=True, stable=True)
            probabilities = logits.softmax(dim=1)
            for row in range(len(pixels)):
                ranked.append([(class_names[index], probabilities[row, index].item()) for index in order[row].tolist()])
    return ranked
