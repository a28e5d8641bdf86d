"""mmsegmentation's loading of images and class maps, with mistakes in the files named in one line."""

from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from vrwkv.errors import InputError

_CHECKED = {"LoadImageFromFile": "CheckedImage", "LoadAnnotations": "CheckedAnnotations"}


@TRANSFORMS.register_module()
class CheckedImage(LoadImageFromFile):
    """`LoadImageFromFile` that says which file cannot be read."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load the image.

        Raises:
            InputError: it is missing or no image.
        """
        try:
            return super().transform(results)
        except Exception as error:
            if isinstance(error, OSError) and error.strerror:
                raise InputError(f"cannot read the image {results['img_path']}: {error.strerror}") from None
            # mmcv's decoders raise whatever their backends do, or trip over the None that OpenCV gives.
            raise InputError(f"the image {results['img_path']} is truncated or no image") from None


@TRANSFORMS.register_module()
class CheckedAnnotations(LoadAnnotations):
    """`LoadAnnotations` that refuses maps of another size than the image and values that are no class.

    Args:
        num_classes: classes of the model.
        ignore_index: value of unlabelled pixels, as the loss has it.
        kwargs: of `LoadAnnotations`.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        file = results["seg_map_path"]
        try:
            super()._load_seg_map(results)
        except Exception as error:
            if isinstance(error, OSError) and error.strerror:
                raise InputError(f"cannot read the mask {file}: {error.strerror}") from None
            raise InputError(f"the mask {file} is truncated or no image") from None
        values = results["gt_seg_map"]
        if values.ndim != 2:
            raise InputError(
                f"the mask {file} has {values.shape[2]} channels: one of class numbers is needed, such as a palette or "
                "gray PNG"
            )
        size = tuple(results["ori_shape"][:2])
        if values.shape != size:
            raise InputError(
                f"the mask {file} has {values.shape[1]} × {values.shape[0]} pixels, its image {results['img_path']} "
                f"{size[1]} × {size[0]}: they must be the same"
            )
        self._check_values(values, file, bool(results["reduce_zero_label"]))

    def _check_values(self, values: np.ndarray, file: str, reduced: bool) -> None:
        wrong = np.unique(values[(values >= self.num_classes) & (values != self.ignore_index)])
        if wrong.size:
            stored = wrong + 1 if reduced else wrong
            first = 1 if reduced else 0
            shown = ", ".join(map(str, stored[:5])) + (", ..." if stored.size > 5 else "")
            raise InputError(
                f"the mask {file} has the values {shown}, which are none of the {self.num_classes} classes "
                f"({first} to {self.num_classes - 1 + first}; {self.ignore_index} is ignored"
                f"{', and so is 0' if reduced else ''})"
            )


def check_while_loading(pipeline: Any, num_classes: int) -> None:
    """Put the checked loaders into a pipeline of configuration dicts, in place, nested test-time ones included."""
    if isinstance(pipeline, list | tuple):
        for step in pipeline:
            check_while_loading(step, num_classes)
    elif isinstance(pipeline, dict):
        kind = pipeline.get("type")
        if kind in _CHECKED:
            pipeline["type"] = _CHECKED[kind]
            if kind == "LoadAnnotations":
                pipeline["num_classes"] = num_classes
        for value in list(pipeline.values()):
            check_while_loading(value, num_classes)
