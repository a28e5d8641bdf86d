"""A labelled image set as image-text pairs: captions made from class names."""

from collections.abc import Sequence
from typing import Any

from rwkv_clip.data.templates import Template, fill_template, resolve_templates
from vrwkv.data.source import LabelledSource


class CaptionedSource:
    """The samples of a labelled source, each with one caption per template about its class.

    Args:
        source: images with labels.
        templates: as for `resolve_templates`.

    Attributes:
        labels: class of each sample.
        class_names: as they stand in captions: folder names with spaces for underscores.
        templates: texts with a placeholder.
    """

    def __init__(self, source: LabelledSource, templates: str | Sequence[Template]) -> None:
        self._source = source
        self.templates = resolve_templates(templates)
        self.labels = source.labels
        self.class_names = [name.replace("_", " ") for name in source.class_names]
        self._captions = [[fill_template(text, name) for text in self.templates] for name in self.class_names]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The source's sample with "captions" added."""
        return {**self._source[index], "captions": self.captions(index)}

    def captions(self, index: int) -> list[str]:
        """The captions of the sample's class."""
        return list(self._captions[int(self.labels[index])])

    def image_key(self, index: int) -> str:
        """The sample's position: every sample is an image of its own."""
        return str(index)
