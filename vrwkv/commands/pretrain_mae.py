"""Pretrain a Vision-RWKV by painting hidden patches; the run folder's weights are the backbone's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vrwkv.atomic_write import atomic_write
from vrwkv.command import run_command
from vrwkv.data import EvaluationLoader, TrainLoader, build_labelled_source
from vrwkv.data.augmentation import LabelledTransform, evaluation_preprocess, training_preprocess
from vrwkv.errors import InputError
from vrwkv.evaluate.results import read_results, write_results
from vrwkv.models import registry
from vrwkv.objectives.classifier import Classifier, create_classifier, save_metadata
from vrwkv.objectives.classifier_config import ClassifierModelConfig
from vrwkv.objectives.mae_config import EncoderConfig, MaeConfig
from vrwkv.objectives.masked_autoencoder import MaskedAutoencoder
from vrwkv.objectives.masked_image_modelling import MaskedImageObjective
from vrwkv.objectives.reconstruction import reconstruction
from vrwkv.objectives.starting_weights import load_starting_weights
from vrwkv.training.configuration import parse_command_line
from vrwkv.training.distributed import Distributed, distributed_run
from vrwkv.training.loop import fit
from vrwkv.training.randomness import seed_generators
from vrwkv.training.run_folder import check_run_folder
from vrwkv.training.weights import save_weights

DESCRIPTION = "Pretrain a Vision-RWKV as a masked autoencoder (MAE); train_classifier.py goes on from its run folder."


def pretrain(config: MaeConfig) -> dict[str, Any]:
    """Pretrain and evaluate as `config` says; under torchrun, on all its processes.

    Returns:
        The content of results.json (empty on processes other than the main one).

    Raises:
        InputError: anything in the configuration or the data that does not work.
    """
    run_folder = Path(config.run.output)
    with distributed_run(config.run.device) as distributed:
        distributed.on_main(lambda: check_run_folder(run_folder, config))
        source = build_labelled_source(config.data.train)
        seed_generators(config.run.seed)
        backbone = create_backbone(config.model)
        model = create_autoencoder(backbone, config)
        held_out = _held_out(backbone, config)
        loader = TrainLoader(
            source,
            LabelledTransform(training_preprocess(backbone.image, config.data.augmentation)),
            batch_size=config.data.batch_size,
            seed=config.run.seed,
            num_workers=config.data.num_workers,
            rank=distributed.rank,
            world_size=distributed.world_size,
            max_corrupt_fraction=config.data.max_corrupt_fraction,
            pin_memory=distributed.device.type == "cuda",
        )
        objective = MaskedImageObjective(model.encoder.patch_embed.patch_size, config.mask.normalise_pixels)
        if distributed.is_main:
            _announce(model, len(source), loader, config)

        def evaluate(model: nn.Module, step: int) -> dict[str, float]:
            assert isinstance(model, MaskedAutoencoder)
            return _reconstruction(model, held_out, config, distributed)

        evaluation = evaluate if held_out is not None else None
        fitted = fit(model, objective, loader, config, run_folder, distributed, evaluation)
        if not distributed.is_main:
            return {}
        assert isinstance(fitted.model, MaskedAutoencoder)
        save_weights(fitted.model.encoder, run_folder / "model.safetensors", save_metadata(backbone))
        atomic_write(run_folder / "config.json", json.dumps(timm_config(backbone), indent=2) + "\n")
        print(f"trained {fitted.steps} steps in {fitted.seconds:.0f} s; training data: {loader.skipped.report()}")
        numbers: dict[str, Any] = {"skipped": {"training samples": len(loader.skipped.indices)}}
        if held_out is not None:
            numbers |= _reconstruction(fitted.model, held_out, config, distributed)
        write_results(run_folder, numbers)
        _print_results(run_folder)
        return read_results(run_folder)


def create_backbone(config: EncoderConfig) -> Classifier:
    """The encoder, without a classifier, and what it expects of its images.

    Raises:
        InputError: arguments that the architecture refuses, or an image size that is no multiple of the patch size.
    """
    shared = ("architecture", "image_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
    values = {name: getattr(config, name) for name in (*shared, "drop_path_rate", "options")}
    backbone = create_classifier(ClassifierModelConfig(**values), 0)
    patch_size, size = backbone.model.patch_embed.patch_size, backbone.image.size  # type: ignore[union-attr]
    if any(size % side for side in patch_size):  # type: ignore[union-attr]
        raise InputError(f"model.image_size {size} must be a multiple of the patch size {patch_size[0]}")  # type: ignore[index]
    return backbone


def create_autoencoder(backbone: Classifier, config: MaeConfig) -> MaskedAutoencoder:
    """The backbone with a decoder and MAE's starting values, or those of `config.model.checkpoint`."""
    model = MaskedAutoencoder(
        backbone.model,  # type: ignore[arg-type]
        mask_ratio=config.mask.ratio,
        decoder_dim=config.mask.decoder_dim,
        decoder_depth=config.mask.decoder_depth,
    )
    if config.model.checkpoint:
        backbone.starting_point = load_starting_weights(model.encoder, config.model.checkpoint)
        print(f"starting from {backbone.starting_point}")
    return model


def timm_config(backbone: Classifier) -> dict[str, Any]:
    """Content of config.json, with which `timm.create_model("local-dir:…", pretrained=True)` reads the run folder."""
    settings = registry.default_cfgs[backbone.architecture].default.to_dict(remove_source=True)
    settings |= {"num_classes": 0, "input_size": (3, backbone.image.size, backbone.image.size)}
    return {
        "architecture": backbone.architecture,
        "num_classes": 0,
        "num_features": backbone.model.num_features,
        "global_pool": backbone.model.global_pool,
        "model_args": {
            name: value for name, value in backbone.options.items() if name not in ("num_classes", "drop_path_rate")
        },
        "pretrained_cfg": settings,
    }


def _held_out(backbone: Classifier, config: MaeConfig) -> EvaluationLoader | None:
    """Built before training, so that mistakes in the evaluation data show before hours of it."""
    if config.evaluate.data is None:
        return None
    return EvaluationLoader(
        build_labelled_source(config.evaluate.data),
        LabelledTransform(evaluation_preprocess(backbone.image)),
        batch_size=config.evaluate.batch_size,
        num_workers=config.data.num_workers,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )


def _reconstruction(
    model: MaskedAutoencoder, held_out: EvaluationLoader | None, config: MaeConfig, distributed: Distributed
) -> dict[str, float]:
    assert held_out is not None
    return reconstruction(model, held_out, normalise_pixels=config.mask.normalise_pixels, device=distributed.device)


def _announce(model: MaskedAutoencoder, samples: int, loader: TrainLoader, config: MaeConfig) -> None:
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    steps, patches = loader.steps_per_epoch, model.encoder.patch_embed.num_patches
    hidden = f"{config.mask.ratio:.0%} of {patches} patches"
    print(
        f"pretraining {config.model.architecture} ({encoder / 1e6:.2f} M parameters, decoder "
        f"{(total - encoder) / 1e6:.2f} M) on {samples} images with {hidden} hidden, "
        f"{config.train.epochs} epochs of {steps} {'step' if steps == 1 else 'steps'}, batch {loader.batch_size}",
        flush=True,
    )


def _print_results(run_folder: Path) -> None:
    results = read_results(run_folder)
    if "reconstruction_loss" in results:
        print(
            f"held-out error of hidden patches: {results['reconstruction_loss']:.4f} "
            f"(mean of the visible ones: {results['visible_mean_loss']:.4f})"
        )
    print(f"run folder: {run_folder} (fine-tune: train_classifier.py model.checkpoint={run_folder})")


def main(arguments: Sequence[str]) -> None:
    """The command: `[--config FILE.yaml] [key=value ...]`."""
    pretrain(parse_command_line(MaeConfig, arguments, DESCRIPTION))


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
