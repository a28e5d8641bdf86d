"""Indexed sources of images, and loaders whose order and randomness depend on nothing but seed, epoch and index."""

from vrwkv.data.digits import DigitsSource
from vrwkv.data.folder import FolderSource
from vrwkv.data.font_characters import FontCharactersSource
from vrwkv.data.labelled import LabelledDataConfig, build_labelled_source
from vrwkv.data.loader import EvaluationLoader, TrainLoader
from vrwkv.data.shards import ShardSource
from vrwkv.data.skipped import Skipped
from vrwkv.data.source import CorruptSample, LabelledSource, Source, open_image

__all__ = [
    "CorruptSample",
    "DigitsSource",
    "EvaluationLoader",
    "FolderSource",
    "FontCharactersSource",
    "LabelledDataConfig",
    "LabelledSource",
    "ShardSource",
    "Skipped",
    "Source",
    "TrainLoader",
    "build_labelled_source",
    "open_image",
]
