"""Image-text retrieval on a set of pairs: recall at 1, 5 and 10 in both directions."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rwkv_clip.commands.evaluation import (
    add_common_arguments,
    load_encoder,
    record_retrieval,
    run_config,
    run_folder_of,
)
from rwkv_clip.data.config import SourceConfig
from rwkv_clip.evaluate.results import format_results
from vrwkv.command import run_command
from vrwkv.errors import InputError

EPILOG = """examples:
  retrieval.py runs/demo                                  the retrieval set of the run's configuration
  retrieval.py runs/mine --data pairs.csv                 columns filepath and title; any matching caption counts
  retrieval.py model_31.pt --data 'test-{00..03}.tar' --prefix 'a photo of '     webdataset shards"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="retrieval.py",
        description="Find captions from images and images from captions. An image may have several captions and a\n"
        "caption several images: any match counts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_arguments(parser)
    parser.add_argument("--data", metavar="PATH", help="a .csv or .tsv of pairs, or .tar shards, not the run's set")
    parser.add_argument("--image-column", default=SourceConfig().image_column, help="default: %(default)s")
    parser.add_argument("--caption-column", default=SourceConfig().caption_column, help="default: %(default)s")
    parser.add_argument("--prefix", default="", help="put before every caption; published RWKV-CLIP: 'a photo of '")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command."""
    options = parser().parse_args(arguments)
    config = run_config(options.run)
    data = config.evaluate.retrieval if config is not None else None
    if options.data is not None:
        data = SourceConfig(
            kind="shards" if Path(options.data).suffix == ".tar" else "csv",
            path=options.data,
            image_column=options.image_column,
            caption_column=options.caption_column,
        )
    if data is None:
        raise InputError(f"{options.run} names no retrieval set (evaluate.retrieval); give --data pairs.csv")
    encoder = load_encoder(options)
    print(format_results(record_retrieval(encoder, data, run_folder_of(options.run), options.prefix)))


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
