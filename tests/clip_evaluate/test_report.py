import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from rwkv_clip.evaluate.results import write_results
from rwkv_clip.report import RetrievalExample, choose_examples, write_report
from rwkv_clip.report.loss_curve import draw_loss, read_metrics
from rwkv_clip.report.retrieval_grid import RIGHT, WRONG, draw_retrieval
from vrwkv.errors import InputError
from vrwkv.evaluate.confusion_plot import draw_confusion
from vrwkv.evaluate.training_plot import curve

NAMES = ["<b>", "a & b", "$\\frac$"]  # the last is no valid mathematics
CONFUSION = torch.tensor([[9, 1, 0], [0, 0, 0], [3, 0, 7]])


def write_metrics(folder: Path, steps: int = 150) -> None:
    lines: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "loss": 4 * math.exp(-step / 50), "lr": 1e-3})
        if step % 50 == 0:
            lines.append({"step": step, "zero_shot_top1": step / 200})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def digit_examples() -> list[RetrievalExample]:
    images = load_digits().images
    return [
        RetrievalExample("a <script>", images[:5], [True, False, True, True, False]),
        RetrievalExample("$\\frac$ " * 40, images[5:8], [False, False, True]),
    ]


def colours(path: Path) -> int:
    with Image.open(path) as image:
        assert min(image.size) > 200
        return len(image.convert("RGB").getcolors(1 << 24))


class PageReader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_whole_report(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    write_results(tmp_path, {"zero_shot_top1": 0.8, "i2t_r5": 0.5, "zero_shot_samples": 20, "skipped": {"<i>": 1}})
    page = write_report(
        tmp_path, title="<u>run", confusion=CONFUSION, class_names=NAMES, retrieval=digit_examples(), chance_loss=4.0
    )
    assert page == tmp_path / "report" / "index.html"
    reader = PageReader(page.read_text(encoding="utf-8"))
    assert sorted(reader.links) == ["confusion.png", "loss.png", "retrieval.png"]
    for link in reader.links:
        assert colours(page.parent / link) > 20
    assert not {"b", "script", "u", "i"} & set(reader.tags)
    for text in (
        *NAMES,
        "a <script>",
        "<u>run",
        "<i> 1",
        "80.0 %",
        "50.0 %",
        "33.3 %",
        "20 images",
        "70.0 %",
        "no images",
    ):
        assert text in reader.text
    assert not list(page.parent.glob(".*"))


def test_a_later_evaluation_adds_to_the_report(tmp_path: Path) -> None:
    write_report(tmp_path, title="Digits", confusion=CONFUSION, class_names=NAMES)
    before = (tmp_path / "report" / "confusion.png").read_bytes()
    page = write_report(tmp_path, retrieval=digit_examples()[:1])
    reader = PageReader(page.read_text(encoding="utf-8"))
    assert sorted(reader.links) == ["confusion.png", "retrieval.png"]
    assert (tmp_path / "report" / "confusion.png").read_bytes() == before
    assert "a & b" in reader.text
    assert "Digits" in reader.text


def test_a_run_without_anything_to_show(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n')
    page = write_report(tmp_path)
    reader = PageReader(page.read_text(encoding="utf-8"))
    assert not reader.links
    assert "not been evaluated" in reader.text
    assert tmp_path.name in reader.text


def test_metrics_are_read_up_to_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n\n{"note": "x"}\n{"step": 2, "evaluate/t2i_r1": 0.5}\n{"step": 3, "lo')
    records = read_metrics(path)
    assert [record["step"] for record in records] == [1, 2]
    assert [points.tolist() for points in curve(records, "t2i_r1")] == [[2.0], [0.5]]
    assert [points.tolist() for points in curve(records, "loss")] == [[1.0], [2.0]]
    path.write_text('{"step": 1\n{"step": 2, "loss": 1.0}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl line 1 is not valid JSON"):
        read_metrics(path)


def test_draw_loss_says_when_there_is_nothing(tmp_path: Path) -> None:
    assert not draw_loss([{"step": 1, "zero_shot_top1": 0.5}], tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()
    assert draw_loss([{"step": 1, "loss": 0.5, "lr": 0.1}], tmp_path / "loss.png")
    assert colours(tmp_path / "loss.png") > 20


@pytest.mark.parametrize("num_classes", [1, 2, 20, 21, 120])
def test_confusion_of_any_size_is_drawn_without_warnings(
    tmp_path: Path, num_classes: int, recwarn: pytest.WarningsRecorder
) -> None:
    draw_confusion(torch.eye(num_classes).long(), [f"class {i} $" for i in range(num_classes)], tmp_path / "c.png")
    assert colours(tmp_path / "c.png") > 20
    with Image.open(tmp_path / "c.png") as image:
        assert max(image.size) < 2200
    assert not recwarn.list


def test_counts_are_written_only_up_to_twenty_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    written: list[str] = []
    write = Axes.text

    def tracked(self: Axes, x: float, y: float, s: str, **options: object) -> object:
        written.append(s)
        return write(self, x, y, s, **options)

    monkeypatch.setattr(Axes, "text", tracked)
    for num_classes in (20, 21):
        draw_confusion(17 * torch.eye(num_classes).long(), [str(i) for i in range(num_classes)], tmp_path / "c.png")
    assert written == ["17"] * 20


def test_retrieved_images_are_framed_by_correctness(tmp_path: Path) -> None:
    for marks, present, absent in (([True, True], RIGHT, WRONG), ([False, False], WRONG, RIGHT)):
        picture = np.full((20, 40), 0.5)
        draw_retrieval([RetrievalExample("caption", [picture, picture.T], marks)], tmp_path / "r.png")
        with Image.open(tmp_path / "r.png") as image:
            found = {color for _, color in image.convert("RGB").getcolors(1 << 24)}
        assert tuple(bytes.fromhex(present[1:])) in found
        assert tuple(bytes.fromhex(absent[1:])) not in found


def test_chosen_examples_are_spread_and_marked() -> None:
    num_classes = 4
    images = torch.eye(num_classes).repeat(3, 1)  # image i shows class i % 4
    texts = torch.eye(num_classes).repeat(2, 1)  # two captions a class
    images[0] = images[1]  # image 0 looks like class 1, so it is a wrong answer for captions of class 1
    relevant = [(image, text) for image in range(12) for text in range(8) if image % 4 == text % 4]
    captions = [f"{style} {index}" for style in ("photo", "scan") for index in range(num_classes)]
    examples = choose_examples(images, texts, captions, relevant, lambda index: index, num_queries=10, num_images=3)
    assert [example.caption for example in examples] == ["photo 0", "scan 1", "photo 2", "scan 3"]
    assert examples[1].images == [0, 1, 5]
    assert examples[1].correct == [False, True, True]
    assert examples[2].correct == [True, True, True]
    assert len(choose_examples(images, texts, captions, relevant, lambda index: index, num_queries=2)) == 2


def test_nothing_of_pyplot_is_touched(tmp_path: Path) -> None:
    import matplotlib

    before = matplotlib.rcParams._get_backend_or_none()
    write_report(tmp_path, confusion=CONFUSION, class_names=NAMES)
    assert matplotlib.rcParams._get_backend_or_none() == before


def test_what_a_report_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path / "missing")
    with pytest.raises(InputError, match="given together"):
        write_report(tmp_path, confusion=CONFUSION)
    with pytest.raises(InputError, match="does not fit 2 class names"):
        write_report(tmp_path, confusion=CONFUSION, class_names=["a", "b"])
    with pytest.raises(InputError, match="no retrieval examples"):
        draw_retrieval([], tmp_path / "r.png")
    with pytest.raises(InputError, match="1 images and 2 marks"):
        draw_retrieval([RetrievalExample("c", [np.zeros((2, 2))], [True, False])], tmp_path / "r.png")
    with pytest.raises(InputError, match="no caption has a relevant image"):
        choose_examples(torch.eye(2), torch.eye(2), ["a", "b"], [], lambda index: index)
    with pytest.raises(InputError, match="1 captions do not fit 2"):
        choose_examples(torch.eye(2), torch.eye(2), ["a"], [(0, 0)], lambda index: index)
