import warnings

import pytest
import torch

from vrwkv.errors import InputError
from vrwkv.training.config import ScheduleConfig
from vrwkv.training.schedule import create_schedule


def optimizer_of(lr: float, scales: tuple[float, ...] = (1.0,)) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in scales]
    return torch.optim.AdamW(groups, lr=lr)


def rates(config: ScheduleConfig, steps: list[int], *, lr: float = 1.0, epochs: int = 10, per_epoch: int = 10) -> list:
    optimizer = optimizer_of(lr)
    schedule = create_schedule(optimizer, config, lr, epochs, per_epoch)
    values = []
    for step in steps:
        schedule.set_step(step)
        values.append(optimizer.param_groups[0]["lr"])
    return values


def test_cosine_warms_up_per_step_and_falls_to_the_minimum() -> None:
    config = ScheduleConfig("cosine", warmup_epochs=2, warmup_lr=0.1, min_lr=0.2)
    assert rates(config, [0, 10, 20, 50, 100]) == pytest.approx([0.1, 0.55, 0.2 + 0.4 * (1 + 0.8090169944), 0.6, 0.2])


def test_linear_constant_and_a_warmup_in_steps() -> None:
    assert rates(ScheduleConfig("linear"), [0, 25, 75]) == pytest.approx([1.0, 0.75, 0.25])
    assert rates(ScheduleConfig("constant", warmup_steps=4), [0, 1, 4, 99]) == pytest.approx([0.0, 0.25, 1.0, 1.0])


def test_rates_depend_on_the_step_alone() -> None:
    for name in ("cosine", "linear", "constant", "onecycle", "step"):
        milestones = (6.2,) if name == "step" else ()
        config = ScheduleConfig(name, warmup_steps=7, milestones=milestones)  # type: ignore[arg-type]
        assert rates(config, [63]) == rates(config, [0, 5, 99, 63])[-1:]


@pytest.mark.parametrize("total", [37, 200])
def test_onecycle_is_torchs(total: int) -> None:
    expected_of, ours_of = optimizer_of(1e-3), optimizer_of(1e-3)
    schedule = create_schedule(ours_of, ScheduleConfig("onecycle"), 1e-3, 1, total)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimiser step comes between
        theirs = torch.optim.lr_scheduler.OneCycleLR(expected_of, 1e-3, total_steps=total, pct_start=0.1)
        for step in range(total):
            schedule.set_step(step)
            for key in ("lr", "betas"):
                assert ours_of.param_groups[0][key] == pytest.approx(expected_of.param_groups[0][key], rel=1e-12)
            if step < total - 1:
                theirs.step()


def test_onecycle_of_a_few_steps_is_finite() -> None:
    for total in (1, 2, 10, 11):
        values = rates(ScheduleConfig("onecycle"), list(range(total)), epochs=1, per_epoch=total)
        assert all(0 < value <= 1 for value in values)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "onecycle"])
def test_layer_decay_scales_every_schedule(name: str) -> None:
    optimizer = optimizer_of(1.0, scales=(1.0, 0.25))
    create_schedule(optimizer, ScheduleConfig(name), 1.0, 10, 10).set_step(30)  # type: ignore[arg-type]
    full, scaled = (group["lr"] for group in optimizer.param_groups)
    assert scaled == pytest.approx(full / 4)


def test_impossible_schedules_are_input_errors() -> None:
    with pytest.raises(InputError, match="warm-up of 100 steps"):
        rates(ScheduleConfig(warmup_epochs=10), [0])
    with pytest.raises(InputError, match=r"schedule\.min_lr 2 is above"):
        rates(ScheduleConfig(min_lr=2.0), [0])


def test_steps_fall_exactly_at_their_milestones_whatever_the_warmup() -> None:
    config = ScheduleConfig("step", warmup_steps=4, warmup_lr=0.2, milestones=(2, 5.5))
    expected = [0.2, 0.4, 0.8, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert rates(config, [0, 1, 3, 4, 19, 20, 54, 55, 99]) == pytest.approx(expected)
    halved = ScheduleConfig("step", milestones=(1,), decay_rate=0.5)
    assert rates(halved, [9, 10], lr=0.3) == pytest.approx([0.3, 0.15])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "step"}, "milestones belong to name=step"),
        ({"name": "cosine", "milestones": (3,)}, "milestones belong to name=step"),
        ({"name": "step", "milestones": (5, 3)}, "milestones must be positive and rise"),
        ({"name": "step", "milestones": (5,), "decay_rate": 1.0}, "decay_rate must lie between 0 and 1"),
    ],
)
def test_milestones_that_make_no_sense_are_refused(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ScheduleConfig(**options)
