import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from vrwkv.command import run_command
from vrwkv.errors import InputError


def fail_with(error: Exception) -> object:
    def main(arguments: object) -> None:
        raise error

    return main


def test_a_users_mistake_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(fail_with(InputError("no such file\n'a.csv'")), [])  # type: ignore[arg-type]
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: no such file 'a.csv'\n"


def test_a_missing_optional_package_names_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(fail_with(ModuleNotFoundError("No module named 'tyro'", name="tyro")), [])  # type: ignore[arg-type]
    assert stop.value.code == 2
    assert "pip install 'vrwkv[train]'" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(fail_with(ZeroDivisionError()), [])  # type: ignore[arg-type]


def test_a_reader_that_stops_reading_is_no_error() -> None:
    program = "from vrwkv.command import run_command; run_command(lambda _: print('line\\n' * 200_000), [])"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("tool", sorted((Path(__file__).parents[1] / "tools").glob("*.py")), ids=lambda tool: tool.stem)
def test_every_tool_explains_itself(
    tool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [tool.name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(tool), run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: {tool.name}" in capsys.readouterr().out
