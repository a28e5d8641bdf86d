from pathlib import Path

import numpy as np
import pytest

from vrwkv.evaluate.training_plot import draw_training, running_mean


def test_running_mean_has_only_full_windows() -> None:
    values = np.array([1.0, 2.0, 6.0, 1.0, 0.0])
    np.testing.assert_allclose(running_mean(values, 3), [3.0, 3.0, 7 / 3])


@pytest.mark.parametrize(
    ("steps", "chance_loss", "labels"),
    [
        (99, None, ["held-out top-1"]),
        (99, 2.3, ["training loss", "guessing", "held-out top-1"]),
        (100, None, ["each logged step", "mean of 5 around it", "held-out top-1"]),
    ],
)
def test_what_a_legend_names(
    steps: int, chance_loss: float | None, labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr("vrwkv.evaluate.training_plot.save_figure", lambda figure, path: drawn.append(figure))
    lines = [{"step": step, "loss": 1 / step, "lr": 0.1} for step in range(1, steps + 1)]
    lines += [{"step": 50, "top1": 0.5}, {"step": steps, "top1": float("nan")}]
    assert draw_training(lines, tmp_path / "training.png", chance_loss=chance_loss)
    legends = [panel.get_legend() for panel in drawn[0].axes]
    assert [text.get_text() for legend in legends if legend is not None for text in legend.get_texts()] == labels
    assert [panel.get_ylabel() for panel in drawn[0].axes] == ["training loss", "accuracy, %", "learning rate"]
