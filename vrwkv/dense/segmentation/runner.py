"""Trains and tests a segmentor as its configuration says, through mmengine's Runner."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn

from vrwkv.dense.segmentation.checkpoints import load_segmentor, safe_checkpoints, save_segmentor
from vrwkv.dense.segmentation.checks import check_segmentor, worker_errors_shortened
from vrwkv.dense.segmentation.exact_order import order_exactly
from vrwkv.errors import InputError

WEIGHTS = "model.safetensors"
RESULTS = {"mIoU": "miou", "mAcc": "mean_accuracy", "aAcc": "pixel_accuracy"}
"""mmsegmentation's metrics, in per cent, and their names as fractions."""
_VISUALIZERS = itertools.count()


class SegmentorRunner(Runner):
    """mmengine's Runner that reads its checkpoints without unpickling code and refuses those of another model."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Leave out mmengine's pages on environment and configuration: the run folder has the latter as a file."""

    def get_hooks_info(self) -> str:
        """Names of the hooks, for the log."""
        return ", ".join(type(hook).__name__ for hook in self.hooks)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """mmengine's, which would ask for a GPU of each process where there is none."""
        if not self.distributed or torch.cuda.is_available() or model_wrapper_cfg is not None:
            return super().wrap_model(model_wrapper_cfg, model)
        unused = self.cfg.get("find_unused_parameters", False)
        return MMDistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=unused)

    def load_or_resume(self) -> None:
        """Load or resume as configured, before training.

        Raises:
            InputError: the file cannot be read, or its weights are those of another model.
        """
        with safe_checkpoints():
            super().load_or_resume()

    def load_checkpoint(self, filename: str, map_location: Any = "cpu", strict: bool = True, **kwargs: Any) -> Any:
        """mmengine's, strict by default."""
        try:
            return super().load_checkpoint(filename, map_location=map_location, strict=strict, **kwargs)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{filename} does not fit the configured model: {reason}") from error


def train_segmentor(config: Config) -> dict[str, float]:
    """Train, validate and leave `model.safetensors` in the configuration's work_dir.

    Args:
        config: complete; with `resume=True` training goes on from the newest checkpoint in work_dir.

    Returns:
        Metrics of the last validation as fractions: miou, mean_accuracy, pixel_accuracy. Empty without validation.

    Raises:
        InputError: what `check_segmentor` finds, files that cannot be read, or a checkpoint of another model.
    """
    join_processes(config)
    check_segmentor(config, "train", "validation")
    order_exactly(config)
    start = config.get("load_from") if not config.get("resume") else None
    if start is not None:
        config.load_from = None
    runner = _build_runner(config)
    if start is not None:
        _after_initialisation(runner, lambda: load_segmentor(bare_model(runner), start))
    with worker_errors_shortened():
        runner.train()
    if runner.rank == 0:
        save_segmentor(bare_model(runner), Path(runner.work_dir) / WEIGHTS, Path(config.filename or "config.py").name)
    return _last_metrics(runner)


def evaluate_segmentor(
    config: Config, checkpoint: str | Path, *, test_time_augmentation: bool = False
) -> dict[str, float]:
    """Metrics of a checkpoint on the configuration's test set, as fractions: miou, mean_accuracy, pixel_accuracy.

    Args:
        config: complete.
        checkpoint: a run's model.safetensors, mmengine's .pth, or a published file.
        test_time_augmentation: mean of the predictions for the configuration's `tta_pipeline`.

    Raises:
        InputError: as `train_segmentor`; no test set; no `tta_pipeline` where it is asked for.
    """
    if config.get("test_dataloader") is None or config.get("test_evaluator") is None:
        raise InputError("the configuration has no test_dataloader with test_evaluator")
    join_processes(config)
    check_segmentor(config, "test")
    if test_time_augmentation:
        if config.get("tta_pipeline") is None:
            raise InputError("the configuration has no tta_pipeline")
        config.test_dataloader.dataset.pipeline = config.tta_pipeline
        config.model = {**(config.get("tta_model") or {"type": "SegTTAModel"}), "module": config.model}
    config.load_from, config.resume = None, False
    runner = _build_runner(config)
    model = bare_model(runner)
    load_segmentor(model.module if test_time_augmentation else model, checkpoint)  # type: ignore[arg-type]
    with worker_errors_shortened():
        return _fractions(runner.test())


def join_processes(config: Config) -> None:
    """Join the process group under torchrun, before any of the processes draws or checks data."""
    if config.get("launcher", "none") == "none" or is_distributed():
        return
    options = dict((config.get("env_cfg") or {}).get("dist_cfg") or {"backend": "nccl"})
    if torch.cuda.is_available():
        init_dist(config.launcher, **options)
    else:
        torch.distributed.init_process_group("gloo")


def _build_runner(config: Config) -> SegmentorRunner:
    """A runner with a visualizer of its own: mmengine gives the first one again to whoever asks for the same name."""
    if config.get("visualizer") is not None:
        config.visualizer.name = f"{config.visualizer.get('name', 'visualizer')}_{next(_VISUALIZERS)}"
    return SegmentorRunner.from_cfg(config)


def bare_model(runner: Runner) -> nn.Module:
    """The runner's model without the wrapper for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def newest_checkpoint(work_dir: Path) -> Path | None:
    """The checkpoint with which training in a folder would go on."""
    found = find_latest_checkpoint(str(work_dir)) if (work_dir / "last_checkpoint").is_file() else None
    return Path(found) if found is not None and Path(found).is_file() else None


def _after_initialisation(runner: Runner, load: Callable[[], None]) -> None:
    """Have `load` run when the runner has given the model its starting values, which is after training is called."""
    initialise = runner._init_model_weights

    def both() -> None:
        initialise()
        load()

    runner._init_model_weights = both


def _last_metrics(runner: Runner) -> dict[str, float]:
    scalars = runner.message_hub.log_scalars
    found = {name: scalars[f"val/{name}"].current() for name in RESULTS if f"val/{name}" in scalars}
    return _fractions(found)


def _fractions(metrics: dict[str, Any]) -> dict[str, float]:
    return {RESULTS[name]: float(value) / 100 for name, value in metrics.items() if name in RESULTS}
