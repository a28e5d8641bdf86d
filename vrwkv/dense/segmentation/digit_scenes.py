"""mmsegmentation's view of the digit scenes: drawn and written in ADE20K's format when they are not there yet."""

from pathlib import Path
from typing import Any, ClassVar

from mmengine.dist import barrier, is_main_process
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

from vrwkv.data.digit_scenes import DigitScenes
from vrwkv.data.digits import DIGIT_NAMES
from vrwkv.data.scene_files import write_ade20k
from vrwkv.errors import InputError

FILES = {
    "train": ("images/training", "annotations/training"),
    "held_out": ("images/validation", "annotations/validation"),
}


@DATASETS.register_module()
class DigitSceneDataset(BaseSegDataset):
    """Scenes of scanned digits with eleven classes: the canvas and the digits zero to nine.

    Args:
        data_root: folder of the data set; drawn when it does not exist.
        split: "train" or "held_out", whose scans are others.
        scenes: number of training and of held-out scenes.
        size: (height, width) of a scene in pixels.
        kwargs: of `BaseSegDataset`.

    Raises:
        InputError: unknown split, or a folder with another number or size of scenes.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": ("canvas", *DIGIT_NAMES),
        "palette": [
            *([70, 70, 70], [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48]),
            *([145, 30, 180], [70, 240, 240], [240, 50, 230], [210, 245, 60], [250, 190, 212]),
        ],
    }

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        scenes: tuple[int, int] = (1000, 200),
        size: tuple[int, int] = (128, 128),
        **kwargs: Any,
    ) -> None:
        if split not in FILES:
            raise InputError(f"the split of digit scenes must be 'train' or 'held_out', not {split!r}")
        folder = Path(data_root)
        if is_main_process() and not folder.exists():
            print(f"drawing {scenes[0]} + {scenes[1]} digit scenes into {folder}", flush=True)
            try:
                write_ade20k(folder, DigitScenes("train", scenes[0], size), DigitScenes("held_out", scenes[1], size))
            except InputError:
                # Another command may have drawn the same scenes meanwhile.
                if not folder.exists():
                    raise
        barrier()
        images, maps = FILES[split]
        files, wanted = list((folder / images).glob("*.jpg")), scenes[split == "held_out"]
        if len(files) != wanted:
            raise InputError(
                f"{folder / images} has {len(files)} scenes, not {wanted}: name another data_root or remove it"
            )
        with Image.open(files[0]) as first:
            found, asked = f"{first.width} × {first.height}", f"{size[1]} × {size[0]}"
        if found != asked:
            raise InputError(
                f"{folder / images} has scenes of {found} pixels, not {asked}: name another data_root or remove it"
            )
        prefixes = {"img_path": images, "seg_map_path": maps}
        super().__init__(data_root=data_root, data_prefix=prefixes, reduce_zero_label=True, **kwargs)
