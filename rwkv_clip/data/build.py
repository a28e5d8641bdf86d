"""From a `SourceConfig` to the source it describes."""

import difflib

from rwkv_clip.data.captioned import CaptionedSource
from rwkv_clip.data.config import SourceConfig
from rwkv_clip.data.pairs import PairSource
from rwkv_clip.data.shards import PairShardSource
from rwkv_clip.data.source import CaptionedImages, ShuffledCaptions
from vrwkv.data.digits import DigitsSource
from vrwkv.data.folder import FolderSource
from vrwkv.errors import InputError

_KINDS = ("csv", "shards", "folder", "digits")


def build_source(config: SourceConfig) -> CaptionedImages:
    """The source of image-text pairs that `config` describes.

    folder and digits also have `labels`, `class_names` and `templates`. Options that do not belong to the kind are
    refused, since ignoring them could train on other data than the user meant.

    Raises:
        InputError: unknown kind, split or template set; an option that does not apply; or data that cannot be read.
    """
    _check(config)
    source: CaptionedImages
    if config.kind == "csv":
        source = PairSource(config.path, config.image_column, config.caption_column, config.separator)
    elif config.kind == "shards":
        default = SourceConfig().caption_column
        source = PairShardSource(config.path, None if config.caption_column == default else config.caption_column)
    elif config.kind == "folder":
        source = CaptionedSource(FolderSource(config.path, config.split), config.templates or ("simple",))
    else:
        source = CaptionedSource(DigitsSource(config.split), config.templates or ("digits",))
    return ShuffledCaptions(source) if config.shuffle_captions else source


def _check(config: SourceConfig) -> None:
    if config.kind not in _KINDS:
        near = difflib.get_close_matches(config.kind, _KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"unknown kind of data {config.kind!r}: choose from {', '.join(_KINDS)}{hint}")
    if config.kind == "digits" and config.path:
        raise InputError(f"kind=digits reads no files, but path is {config.path!r}: set kind to csv, shards or folder")
    if config.kind != "digits" and not config.path:
        raise InputError(f"kind={config.kind} needs a path, but path is empty")
    if config.kind in ("csv", "shards"):
        if config.split != "all":
            raise InputError(f"split={config.split} needs class labels (kind=folder or digits), but kind={config.kind}")
        if config.templates:
            raise InputError(f"templates make captions from class names; kind={config.kind} has captions of its own")
