"""Convert published checkpoints, RWKV-CLIP's included, to folders of ours, and back to the bit."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rwkv_clip.model import METADATA_KEY, create_model
from rwkv_clip.published import changed_text_decays, open_clip_config, published_clip_names
from vrwkv.command import run_command
from vrwkv.commands.convert_checkpoint import Converted, VisionFamily
from vrwkv.commands.convert_checkpoint import main as convert_main
from vrwkv.commands.converted_folder import WEIGHTS
from vrwkv.errors import InputError
from vrwkv.models.conversion import convert
from vrwkv.models.published import strip_prefixes
from vrwkv.models.published_files import IMAGE_TEXT
from vrwkv.models.vision_conversion import model_sizes


class ImageTextFamily:
    """RWKV-CLIP: both towers and the temperature."""

    def recognises(self, names: Sequence[str]) -> bool:
        """Whether a text tower is among the names."""
        return any(name.startswith(("image_model.", "text_model.")) for name in names)

    def convert(
        self, state_dict: Mapping[str, Tensor], where: str, container: str | None, options: argparse.Namespace
    ) -> Converted:
        """Convert both towers; the architecture is read off the shapes."""
        if options.model is not None or options.formula != "paper":
            raise InputError(f"--model and --formula concern Vision-RWKV; {where} holds an RWKV-CLIP model")
        stripped = {strip_prefixes(name): tensor for name, tensor in state_dict.items()}
        config = open_clip_config(stripped)
        with torch.device("meta"):
            model = create_model(config)
        ours = {published: own for own, published in published_clip_names(model).items()}
        conversion = convert(state_dict, model, ours, where, container=container)
        sizes = model_sizes(conversion)
        patch = config["vision_cfg"]["timm_model_kwargs"]["patch_size"]
        files = [
            file for file in IMAGE_TEXT if (file.tensors, file.parameters) == sizes and f"_patch{patch}_" in file.model
        ]
        changed = changed_text_decays(stripped)
        finding = "equal to bfloat16 of their starting values, as in released models"
        return Converted(
            conversion,
            {"architecture": f"RWKV-CLIP-B-{patch}" if files else "RWKV-CLIP", "model_cfg": config},
            sizes,
            files,
            metadata={METADATA_KEY: json.dumps(config)},
            checks={"text decays": f"{changed} differ from their starting values" if changed else finding},
            warnings=[f"{changed} decays of the text tower have moved; in released models none has"] if changed else [],
        )

    def published_names(self, folder: Path) -> dict[str, str] | None:
        """Names for the weights of a run or of a converted file."""
        try:
            with safe_open(folder / WEIGHTS, "pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{folder / WEIGHTS} is not a readable safetensors file: {error}") from None
        if METADATA_KEY not in metadata:
            return None
        with torch.device("meta"):
            model = create_model(json.loads(metadata[METADATA_KEY]))
        return published_clip_names(model)


def main(arguments: Sequence[str]) -> None:
    """The command."""
    convert_main(arguments, (ImageTextFamily(), VisionFamily()))


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
