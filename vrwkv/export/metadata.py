"""What a file says about the model in it: strings by key, in the same form in every format."""

import json
from collections.abc import Sequence

from vrwkv.data.augmentation import ImageFormat
from vrwkv.version import __version__


def model_metadata(architecture: str, **facts: object) -> dict[str, str]:
    """Strings for `Tower.metadata`: the architecture, `facts`, and the version of this toolkit.

    Args:
        architecture: name of the model.
        facts: strings are kept as they are, None is left out, anything else becomes JSON.
    """
    known = {key: fact for key, fact in facts.items() if fact is not None}
    return {
        "architecture": architecture,
        **{key: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False) for key, fact in known.items()},
        "vrwkv_version": __version__,
    }


def image_metadata(
    architecture: str, image: ImageFormat | None, class_names: Sequence[str] | None = None
) -> dict[str, str]:
    """What an image model's file says: how evaluation prepares images, and the names of the classes.

    Args:
        architecture: name of the model.
        image: what the model expects of its images; None where that is unknown, and nothing is said of it.
        class_names: one for each output; None where nobody said.
    """
    names = None if class_names is None else list(class_names)
    if image is None:
        return model_metadata(architecture, class_names=names)
    return model_metadata(
        architecture,
        input_size=[3, image.size, image.size],
        interpolation=image.interpolation,
        crop_pct=image.crop_pct,
        color_order="RGB",
        value_range=[0, 1],
        mean=image.mean,
        std=image.std,
        max_tokens=image.max_tokens,
        patch_size=None if image.max_tokens is None else image.patch_size,
        class_names=names,
    )
