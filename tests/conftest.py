"""Without a GPU, Triton's kernels are checked in its interpreter, which must be on before Triton is imported."""

import os
from collections.abc import Callable, Sequence

import pytest
import torch
from packaging.version import Version

if not (torch.cuda.is_available() or torch.xpu.is_available()):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def all_fonts() -> None:
    """Skips a test on versions of matplotlib that lack some fonts of `vrwkv.data.FontCharactersSource`."""
    matplotlib = pytest.importorskip("matplotlib")
    if Version(matplotlib.__version__) < Version("3.11"):
        pytest.skip(f"matplotlib {matplotlib.__version__} lacks some of the fonts")


@pytest.fixture
def mistake(capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[Sequence[str]], None], Sequence[str]], str]:
    """Runs a command that has to end with status 2 and one line on stderr, and answers that line."""
    from vrwkv.command import run_command

    def line_of(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            run_command(main, arguments)
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return line_of
