import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from vrwkv.errors import InputError
from vrwkv.training.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from vrwkv.training.configuration import config_to_yaml, load_config, parse_command_line


@dataclass
class Source:
    """Where samples come from."""

    kind: Literal["csv", "digits"] = "csv"
    """Format of the data."""
    templates: tuple[str, ...] = ()
    """Sentences about a class."""

    def __post_init__(self) -> None:
        if self.kind == "csv" and self.templates:
            raise InputError("templates are for digits")


@dataclass
class Data:
    """Data of the run."""

    train: Source = field(default_factory=lambda: Source(kind="digits"))
    held_out: Source | None = None
    """Another source."""
    ratio: tuple[float, float] = (0.75, 1.25)
    steps: list[int] = field(default_factory=list)
    caption: str | None = None
    folder: Path | None = None
    weights: dict[str, float] = field(default_factory=dict)
    shuffle: bool = False


@dataclass
class Config:
    """A whole configuration."""

    run: RunConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: Data = field(default_factory=Data)


def write(folder: Path, text: str) -> Path:
    file = folder / "x.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, text: str, *overrides: str) -> Config:
    return load_config(Config, write(folder, f"run: {{output: out}}\n{text}"), overrides)


def error_of(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_type_of_a_field_decides_what_yaml_text_means(tmp_path: Path) -> None:
    text = """
train: {lr: 1e-3, epochs: "7", grad_clip: null, ema_decay: ~}
optim:
data:
  ratio: [1, 2.5]
  steps: 3
  caption: on
  shuffle: Yes
  weights: {a: 1, b: .inf}
  train: {templates: ["no", '- {} -', 'a: b']}
"""
    config = load(tmp_path, text)
    assert config.train.lr == 1e-3
    assert config.train.epochs == 7
    assert config.train.grad_clip is None
    assert config.optim == OptimConfig()
    assert config.data.ratio == (1.0, 2.5)
    assert config.data.steps == [3]
    assert config.data.caption == "on"
    assert config.data.shuffle is True
    assert config.data.weights == {"a": 1.0, "b": math.inf}
    assert config.data.train == Source("digits", ("no", "- {} -", "a: b"))


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    overrides = [
        "train.lr=2e-3",
        "train.lr=5e-4",
        "train.grad_clip=null",
        "data.caption=-- a b: [c",
        "data.steps=[1, 2]",
    ]
    overrides += ["data.train.templates={} on white", "data.held_out.kind=digits", "optim.betas=[.9,.98]"]
    config = load(tmp_path, "train: {lr: 1e-1, grad_clip: 3}", *overrides)
    assert config.train.lr == 5e-4
    assert config.train.grad_clip is None
    assert config.data.caption == "-- a b: [c"
    assert config.data.steps == [1, 2]
    assert config.data.train == Source("digits", ("{} on white",))
    assert config.data.held_out == Source("digits")
    assert config.optim.betas == (0.9, 0.98)
    assert load(tmp_path, "data: {held_out: {kind: digits}}", "data.held_out=null").data.held_out is None


@pytest.mark.parametrize(
    "caption", [None, "null", "1e-3", " two\nlines ", "-dash", "é: {}", "", "yes", "~", "'", "x" * 300]
)
def test_round_trip_through_yaml_is_exact(tmp_path: Path, caption: str | None) -> None:
    config = Config(
        RunConfig("a b", seed=3, resume=True),
        TrainConfig(lr=1e-7 / 3, ema_decay=0.9999, grad_clip=None),
        OptimConfig(betas=(0.9, 1 - 1e-9)),
        data=Data(
            Source("digits", ("null", "- x", "{}")),
            Source(),
            caption=caption,
            folder=Path("a/b c"),
            weights={"on": 1e300},
            steps=[1],
        ),
    )
    assert load_config(Config, write(tmp_path, config_to_yaml(config))) == config


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("train: {lrr: 1}", [], "unknown key 'train.lrr' in {file}; did you mean 'train.lr'?"),
        ("", ["train.lrr=1"], "unknown key 'train.lrr' on the command line; did you mean 'train.lr'?"),
        ("", ["lr=1"], "did you mean 'train.lr'?"),
        ("data: {zzzzzz: 1}", [], "known keys of 'data': data.train, data.held_out"),
        ("train: {lr: fast}", [], "'train.lr' in {file}: expected float, got 'fast'"),
        ("train: {epochs: 1.5}", [], "'train.epochs' in {file}: expected int, got '1.5'"),
        ("train: {lr: null}", [], "expected float, got null"),
        ("train: {lr: [1]}", [], "expected float, got ['1']"),
        ("data: {shuffle: 2}", [], "expected true or false, got '2'"),
        ("train: {precision: fp8}", [], "expected one of fp32, bf16, fp16, got 'fp8'"),
        ("optim: {betas: [1]}", [], "expected a list of 2 floats such as [a, b] or null"),
        ("data: {steps: [1, x]}", [], "'data.steps' in {file}: expected a list of ints"),
        ("data: {weights: {a: b}}", [], "expected a mapping of str to float"),
        ("train: 3", [], "'train' in {file} is a section"),
        ("train: {lr: 1, lr: 2}", [], "key 'lr' stands there twice"),
        ("train: [", [], "is not valid YAML"),
        ("train: {lr: -1}", [], "section 'train' of {file}: lr must be above 0, got -1.0"),
        ("data: {train: {kind: csv, templates: [a]}}", [], "section 'data.train' of {file}: templates are for digits"),
        ("", ["train.lr"], "cannot read the override 'train.lr'"),
        ("", ["run.resume=true", "run.overwrite=true"], "resume and overwrite exclude each other"),
        ("schedule: {warmup_steps: 3, warmup_epochs: 1}", [], "warmup_steps and warmup_epochs exclude each other"),
    ],
)
def test_every_mistake_is_one_clear_line(tmp_path: Path, text: str, overrides: list[str], expected: str) -> None:
    assert expected.format(file=tmp_path / "x.yaml") in error_of(tmp_path, text, *overrides)


def test_a_missing_required_key_is_named() -> None:
    with pytest.raises(InputError, match=r"missing key 'run\.output'"):
        load_config(Config, None, ["train.lr=1"])


def test_a_yaml_document_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold sections"):
        load_config(Config, write(tmp_path, "- a"))


def test_a_missing_file_names_close_ones(tmp_path: Path) -> None:
    (tmp_path / "digits_nano.yaml").touch()
    with pytest.raises(InputError, match=r"not found; did you mean '.*digits_nano\.yaml'"):
        load_config(Config, tmp_path / "digit_nano.yaml")
    with pytest.raises(InputError, match="there is no folder"):
        load_config(Config, tmp_path / "nowhere" / "x.yaml")
    with pytest.raises(InputError, match="is a folder"):
        load_config(Config, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="cannot read config file"):
        load_config(Config, tmp_path / "binary.yaml")


def test_command_line_reads_a_file_and_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, "run: {output: out}\ntrain: {epochs: 3}")
    for arguments in (["--config", str(file), "train.lr=2"], [f"--config={file}", "--train.lr=2"]):
        config = parse_command_line(Config, arguments, "Train.")
        assert (config.run.output, config.train.epochs, config.train.lr) == ("out", 3, 2.0)
    for arguments, message in (
        (["--config"], "needs a file"),
        (["x.yaml"], "--config x.yaml"),
        (["--resume"], "key=value"),
    ):
        with pytest.raises(InputError, match=message):
            parse_command_line(Config, arguments, "Train.")


def test_help_lists_every_key_with_its_meaning_and_default(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_command_line(Config, ["--help"], "Train a thing.")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "Train a thing." in text
    assert "--train" not in text
    for line in ("train.lr=FLOAT", "data.train.kind={csv,digits}", "data.held_out.kind={csv,digits}", "run.output=STR"):
        assert line in text
    words = " ".join(text.split())
    assert "Peak learning rate. (default: 0.001)" in words
    assert "optim.betas=null|[FLOAT, FLOAT]" in words
    assert "results go here. (required)" in words
    assert "data.ratio=[FLOAT, FLOAT] (default: [0.75, 1.25])" in words
    assert "data.steps=[INT, ...] (default: [])" in words
    assert "data.weights={NAME: FLOAT, ...} (default: {})" in words
    assert "data.shuffle={true,false} (default: false)" in words
    assert "data.train: Where samples come from." in words
    assert "data.train.kind={csv,digits} Format of the data. (default: digits)" in words
    assert "data.held_out: Another source. Off until one of its keys is given." in words
    assert "data.held_out.kind={csv,digits} Format of the data. (default: csv)" in words
    assert max(map(len, text.splitlines())) <= 80


def test_help_reads_meanings_of_inherited_fields_and_lines_that_go_on(capsys: pytest.CaptureFixture) -> None:
    @dataclass
    class Model:
        """A model."""

        options: dict[str, int | float | bool | str] = field(default_factory=dict)
        """Further arguments
        by name."""
        teacher: str = ""

    @dataclass
    class Larger(Model):
        """A larger one."""

        depth: int | None = None
        """Blocks."""

    with pytest.raises(SystemExit):
        parse_command_line(Larger, ["-h"], "Train.")
    words = " ".join(capsys.readouterr().out.split())
    assert words.endswith(
        "general: options={NAME: VALUE, ...} Further arguments by name. (default: {}) teacher=STR (default: '') "
        "depth=null|INT Blocks. (default: null)"
    )
