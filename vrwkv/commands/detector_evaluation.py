"""What the commands about detectors share: evaluation on annotated images, and results that go into a run folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vrwkv.data import EvaluationLoader
from vrwkv.data.coco import CocoSource
from vrwkv.data.detection import DetectionSetConfig, build_detection_source
from vrwkv.data.detection_augmentation import DetectionTransform, collate_detection
from vrwkv.data.skipped import Skipped
from vrwkv.data.source import CorruptSample
from vrwkv.errors import InputError
from vrwkv.evaluate.detection import KINDS, average_precisions, detect
from vrwkv.evaluate.detection_figure import draw_detections
from vrwkv.evaluate.detection_results import DETECTION, write_precision_table
from vrwkv.evaluate.mode import evaluation_mode
from vrwkv.evaluate.results import with_skipped
from vrwkv.figure import save_figure


@dataclass
class DetectorEvaluation:
    """Annotated images for detectors of some classes, and how to feed one with the other.

    Attributes:
        data: which images.
        class_names: of the detector, labels 1, 2, …
        masks: whether it has masks.
        device: where it is.
        batch_size: images at once.
        num_workers: processes that decode images.
        max_corrupt_fraction: share of unreadable images to skip; more is an error.

    Raises:
        InputError: data that cannot be read, or with other classes than the detector's.
    """

    data: DetectionSetConfig
    class_names: list[str]
    masks: bool
    device: torch.device
    batch_size: int = 8
    num_workers: int = 0
    max_corrupt_fraction: float = 0.01
    source: CocoSource = field(init=False)

    def __post_init__(self) -> None:
        self.source = build_detection_source(self.data, masks=self.masks)
        # They are there, which was looked at; pycocotools reads them itself.
        self.source.with_masks = False
        _check_class_names(self.source.class_names, self.class_names, self.data.describe())

    def measure(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, list[float | None]], Skipped]:
        """Average precisions of boxes and masks; those of each class by kind; and what could not be read."""
        loader = EvaluationLoader(
            self.source,
            DetectionTransform(),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            max_corrupt_fraction=self.max_corrupt_fraction,
            collate=collate_detection,
        )
        found = detect(model, loader, self.source.image_ids, self.source.category_ids, self.device)
        truth = self.source.ground_truth()
        numbers: dict[str, Any] = {"images": len(found.image_ids)}
        classes = {}
        for kind in KINDS if self.masks else ("box",):
            totals, by_class = average_precisions(truth, found, kind, self.source.category_ids)
            numbers |= totals
            classes[kind] = list(by_class.values())
        return numbers, classes, loader.skipped

    def record(self, model: nn.Module, folder: Path, pictures: int = 8, threshold: float = 0.5) -> dict[str, Any]:
        """Measure; numbers go into results.json, the table of classes and a picture of predictions into report/."""
        numbers, classes, skipped = self.measure(model)
        if skipped.count:
            print(f"evaluation {skipped.report()}")
        numbers["evaluation_data"] = self.data.describe()
        written = DETECTION.write(folder, with_skipped(folder, numbers, "evaluation images", skipped.count))
        report = folder / "report"
        report.mkdir(exist_ok=True)
        write_precision_table(self.class_names, classes, report / "per_class.csv")
        samples = self._readable(pictures)
        if samples:
            outputs = self._outputs(model, samples)
            figure = draw_detections([each["image"] for each in samples], outputs, self.class_names, threshold)
            save_figure(figure, report / "predictions.png")
        return written

    def _readable(self, number: int) -> list[dict[str, Any]]:
        """The first samples that can be read."""
        samples: list[dict[str, Any]] = []
        for index in range(len(self.source)):
            if len(samples) == number:
                break
            try:
                samples.append({**self.source[index], "index": index})
            except CorruptSample:
                continue
        return samples

    def _outputs(self, model: nn.Module, samples: list[dict[str, Any]]) -> list[Any]:
        images = [detector_input(sample["image"], self.device) for sample in samples]
        with evaluation_mode(model), torch.inference_mode():
            return [model([image])[0] for image in images]


def _check_class_names(theirs: list[str], ours: list[str], owner: str) -> None:
    """Refuse annotations whose labels mean something else to the detector."""
    for label, (their, our) in enumerate(zip(theirs, ours, strict=False), start=1):
        if their != our:
            raise InputError(
                f"the classes of {owner} are not the detector's: class {label} is {their!r} there, {our!r} here"
            )
    if len(theirs) != len(ours):
        raise InputError(f"the classes of {owner} are not the detector's: {len(theirs)} instead of {len(ours)}")


def detector_input(picture: Any, device: torch.device) -> torch.Tensor:
    """(3, H, W) float32 in [0, 1] of an RGB picture."""
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(picture).float().div_(255).to(device)
