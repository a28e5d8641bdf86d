"""What can be wrong with a segmentor's data set and head, found before training rather than during it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, MODELS
from torch import nn

from vrwkv.dense.segmentation.loading import check_while_loading
from vrwkv.errors import InputError

_SETS = {"train": "train_dataloader", "validation": "val_dataloader", "test": "test_dataloader"}


def check_segmentor(config: Config, *sets: str) -> None:
    """Build the model and data sets of a configuration once, and put the checked loaders into the pipelines.

    Args:
        config: complete; its pipelines are changed.
        sets: which of "train", "validation" and "test" will be used.

    Raises:
        InputError: an argument that a part does not have, a part that is not registered, classes that differ between
            data and head, a palette of another length, no images, or images without mask.
    """
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmseg")):
        model = _build("model", partial(MODELS.build, config.model))
        classes = number_of_classes(model)
        for name in sets:
            if (loader := config.get(_SETS[name])) is not None:
                _check_metainfo(loader.dataset, name)
                _check_files(_build(f"{name} data", partial(DATASETS.build, loader.dataset)), name, classes)
    for name in sets:
        for pipeline in _pipelines(config.get(_SETS[name])):
            check_while_loading(pipeline, classes)
    check_while_loading(config.get("tta_pipeline"), classes)


def number_of_classes(model: nn.Module) -> int:
    """Classes of a segmentor's head (the last one of a cascade)."""
    head = model.decode_head  # type: ignore[union-attr]
    return int((head[-1] if isinstance(head, nn.ModuleList) else head).num_classes)  # type: ignore[union-attr,arg-type,index]


@contextmanager
def worker_errors_shortened() -> Iterator[None]:
    """Context in which an InputError from a loading process keeps its message only, not that process's traceback."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).rsplit(f"{InputError.__name__}: ", 1)[-1].strip()) from None


def _build(what: str, build: Callable[[], Any]) -> Any:
    """The result of `build`; what mmengine and constructors raise over a configuration, as an InputError."""
    try:
        return build()
    except InputError:
        raise
    except (TypeError, KeyError, ValueError, AssertionError, AttributeError, OSError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        reason = " ".join(text.split()) or type(error).__name__
        raise InputError(f"the configuration's {what} cannot be built: {reason.split(' Please check')[0]}") from error


def _check_metainfo(dataset: Mapping[str, Any], name: str) -> None:
    for meta in _metainfos(dataset):
        classes, palette = meta.get("classes"), meta.get("palette")
        if palette is None or classes is None:
            continue
        if len(palette) != len(classes):
            raise InputError(f"the {name} data has {len(classes)} classes and a palette of {len(palette)} colours")
        for colour in palette:
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise InputError(f"the palette of the {name} data has {list(colour)}: colours are [R, G, B], 0 to 255")


def _metainfos(dataset: Any) -> list[Mapping[str, Any]]:
    """The metainfo of a data set and of those that it wraps."""
    if isinstance(dataset, Mapping):
        own = [dataset["metainfo"]] if isinstance(dataset.get("metainfo"), Mapping) else []
        return own + [found for key, value in dataset.items() if key != "metainfo" for found in _metainfos(value)]
    return [found for value in dataset for found in _metainfos(value)] if isinstance(dataset, list | tuple) else []


def _check_files(dataset: Any, name: str, num_classes: int) -> None:
    classes = dataset.metainfo.get("classes")
    if classes is not None and len(classes) != num_classes:
        raise InputError(f"the {name} data has {len(classes)} classes, the model's head {num_classes}: set num_classes")
    if len(dataset) == 0:
        raise InputError(f"the {name} data has no images")
    if not hasattr(dataset, "get_data_info"):
        return
    entries = [dataset.get_data_info(index) for index in range(len(dataset))]
    for key, what in (("img_path", "images are not there"), ("seg_map_path", "images have no mask")):
        missing = [entry[key] for entry in entries if key in entry and not Path(entry[key]).is_file()]
        if missing:
            raise InputError(f"{len(missing)} of the {len(entries)} {name} {what}; the first should be {missing[0]}")


def _pipelines(loader: Any) -> list[Any]:
    """Every `pipeline` inside a loader's configuration."""
    if isinstance(loader, Mapping):
        own = [loader["pipeline"]] if "pipeline" in loader else []
        return own + [found for key, value in loader.items() if key != "pipeline" for found in _pipelines(value)]
    return [found for value in loader for found in _pipelines(value)] if isinstance(loader, list | tuple) else []
