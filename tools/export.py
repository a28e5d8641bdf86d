"""Export a model as a file that runs without this toolkit: see --help."""

import argparse
import importlib.util
from collections.abc import Sequence

from vrwkv.command import run_command
from vrwkv.commands.export import CLIP_PREFIX, main
from vrwkv.export import Tower


def clip_tower(options: argparse.Namespace) -> Tower | None:
    """Towers of image-text models; they alone need the clip extra."""
    asked = options.tower == "text" or (options.model or "").startswith(CLIP_PREFIX)
    if not asked or importlib.util.find_spec("open_clip") is None:
        return None
    from rwkv_clip.commands.export import clip_tower

    return clip_tower(options)


def console(arguments: Sequence[str] | None = None) -> None:
    """Plain image models need the core only."""
    run_command(lambda given: main(given, clip_tower), arguments)


if __name__ == "__main__":
    console()
