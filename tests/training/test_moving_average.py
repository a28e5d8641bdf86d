import math
from pathlib import Path

import pytest
from torch import nn

from vrwkv.objectives.classifier_config import ClassifierConfig
from vrwkv.training.configuration import load_config
from vrwkv.training.moving_average import create_average

FOLDER_SMALL = Path(__file__).parents[2] / "configs" / "classification" / "folder_small.yaml"


def decays(decay: float, warmup: bool | None, steps: int) -> list[float]:
    average = create_average(nn.Linear(2, 2), decay, warmup, steps, announce=False)
    return [average.get_decay(step + 1) for step in range(steps)]


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 40])
def test_the_recipe_for_small_folders_leaves_nothing_of_the_first_tenth(steps_per_epoch: int) -> None:
    train = load_config(ClassifierConfig, FOLDER_SMALL).train
    assert train.ema_decay is not None
    steps = train.epochs * steps_per_epoch
    rising = decays(train.ema_decay, train.ema_warmup, steps)
    assert rising == sorted(rising)
    assert rising[-1] < train.ema_decay
    assert math.prod(rising[steps // 10 :]) < 0.01


def test_long_runs_have_the_decay_that_was_asked_for() -> None:
    assert decays(0.999, None, 3000)[1:] == [0.999] * 2999
    assert decays(0.999, True, 3000)[1] < 0.5
    assert decays(0.999, False, 10)[1:] == [0.999] * 9


def test_only_those_who_are_asked_speak(capsys: pytest.CaptureFixture[str]) -> None:
    for warmup in (None, False):
        create_average(nn.Linear(2, 2), 0.999, warmup, 50, announce=False)
    create_average(nn.Linear(2, 2), 0.999, True, 50)
    assert capsys.readouterr().err == ""
    create_average(nn.Linear(2, 2), 0.999, None, 50)
    assert capsys.readouterr().err.count("\n") == 1
