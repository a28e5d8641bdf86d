"""Train a two-tower model on images and captions, evaluate it, and leave a run folder with a report."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rwkv_clip.commands.evaluation import record_retrieval, record_zero_shot
from rwkv_clip.config import ClipConfig
from rwkv_clip.data.build import build_source
from rwkv_clip.data.transform import PairTransform, training_preprocess
from rwkv_clip.evaluate.configured import Encoder, evaluate_zero_shot, labelled_source, retrieval_set
from rwkv_clip.evaluate.results import format_results, write_results
from rwkv_clip.model import create_model, preprocess_config, save_metadata, tokenizer_of
from rwkv_clip.objective import ContrastiveObjective
from rwkv_clip.report import write_report
from vrwkv.command import run_command
from vrwkv.data import TrainLoader
from vrwkv.evaluate.results import read_results
from vrwkv.training.configuration import parse_command_line
from vrwkv.training.distributed import Distributed, distributed_run
from vrwkv.training.loop import fit
from vrwkv.training.randomness import seed_generators
from vrwkv.training.run_folder import check_run_folder
from vrwkv.training.weights import save_weights

DESCRIPTION = "Train an image tower and a text tower on image-caption pairs, then evaluate them."


def train(config: ClipConfig) -> dict[str, Any]:
    """Train, evaluate and report as `config` says; under torchrun, on all its processes.

    Returns:
        The content of results.json (empty on processes other than the main one).

    Raises:
        InputError: anything in the configuration or the data that does not work.
    """
    run_folder = Path(config.run.output)
    with distributed_run(config.run.device) as distributed:
        distributed.on_main(lambda: check_run_folder(run_folder, config))
        source = build_source(config.data.train)
        _check_evaluation_data(config)
        seed_generators(config.run.seed)
        model = create_model(config.model)
        preprocess = preprocess_config(model)
        encoder = _encoder(model, config, distributed)
        loader = TrainLoader(
            source,
            PairTransform(training_preprocess(preprocess, config.data.augmentation), encoder.tokenizer),
            batch_size=config.data.batch_size,
            seed=config.run.seed,
            num_workers=config.data.num_workers,
            rank=distributed.rank,
            world_size=distributed.world_size,
            max_corrupt_fraction=config.data.max_corrupt_fraction,
            pin_memory=distributed.device.type == "cuda",
        )
        objective = ContrastiveObjective(config.loss, distributed.rank, distributed.world_size)
        if distributed.is_main:
            _announce(model, len(source), loader, config)

        def evaluate(model: nn.Module, step: int) -> dict[str, float]:
            assert config.evaluate.zero_shot is not None
            now = dataclasses.replace(encoder, model=model)
            result = evaluate_zero_shot(now, config.evaluate.zero_shot).result
            return {"zero_shot_top1": result.top1, "zero_shot_top5": result.top5}

        evaluation = evaluate if config.evaluate.zero_shot is not None else None
        fitted = fit(model, objective, loader, config, run_folder, distributed, evaluation)
        if not distributed.is_main:
            return {}
        save_weights(fitted.model, run_folder / "model.safetensors", save_metadata(config.model))
        print(f"trained {fitted.steps} steps in {fitted.seconds:.0f} s; training data: {loader.skipped.report()}")
        write_results(run_folder, {"skipped": {"training samples": len(loader.skipped.indices)}})
        encoder = dataclasses.replace(encoder, model=fitted.model)
        if config.evaluate.zero_shot is not None:
            record_zero_shot(encoder, config.evaluate.zero_shot, run_folder)
        if config.evaluate.retrieval is not None:
            record_retrieval(encoder, config.evaluate.retrieval, run_folder)
        report = write_report(run_folder, title=run_folder.name, chance_loss=_chance_loss(config))
        results = read_results(run_folder)
        print(f"\n{format_results(results)}\n\nrun folder: {run_folder}\nreport:     {report}")
        return results


def _encoder(model: nn.Module, config: ClipConfig, distributed: Distributed) -> Encoder:
    from open_clip.transform import image_transform_v2

    return Encoder(
        model,
        image_transform_v2(preprocess_config(model), is_train=False),
        tokenizer_of(model),
        distributed.device,
        config.evaluate.batch_size,
        config.data.num_workers,
        config.data.max_corrupt_fraction,
    )


def _check_evaluation_data(config: ClipConfig) -> None:
    """Find mistakes in the evaluation sets before hours of training, not after."""
    if config.evaluate.zero_shot is not None:
        labelled_source(config.evaluate.zero_shot)
    if config.evaluate.retrieval is not None:
        retrieval_set(build_source(config.evaluate.retrieval))


def _announce(model: nn.Module, samples: int, loader: TrainLoader, config: ClipConfig) -> None:
    def millions(tower: str) -> str:
        return f"{sum(parameter.numel() for parameter in model.get_submodule(tower).parameters()) / 1e6:.1f} M"

    steps = loader.steps_per_epoch
    left_out = samples - steps * loader.batch_size
    print(
        f"training {config.model.image.architecture} ({millions('visual')} parameters) and text "
        f"{config.model.text.mixer} ({millions('text')}) on {samples} pairs, "
        f"{config.train.epochs} epochs of {steps} {'step' if steps == 1 else 'steps'}, batch {loader.batch_size}"
        + (f" ({left_out} random pairs, less than a batch, are left out of each epoch)" if left_out else ""),
        flush=True,
    )


def _chance_loss(config: ClipConfig) -> float | None:
    return math.log(config.data.batch_size) if config.loss == "clip" else None


def main(arguments: Sequence[str]) -> None:
    """The command: `[--config FILE.yaml] [key=value ...]`."""
    train(parse_command_line(ClipConfig, arguments, DESCRIPTION))


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
