"""Run timm's own model tests on the models registered here.

    python tests/timm_suite/run.py path/to/timm/tests/test_models.py [pytest options]

takes the test file of the installed timm version from timm's source distribution (the wheel has none), imports vrwkv
before it, adds our names to its list of models that are no plain convolutional networks and our module to its list of
modules with `forward_intermediates`, and runs what it then has on our names. Nothing else is changed. Tests that
download weights are left out unless --pretrained is given.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import timm

from vrwkv.models import registry

NAMES = frozenset(registry.__all__)
MODULES = {timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in NAMES}
DOWNLOADING = ("test_model_load_pretrained", "test_model_features_pretrained")


class OnlyOurModels:
    """A pytest plugin that keeps the tests whose parameter `model_name` is, but for a tag, one of ours."""

    def __init__(self, pretrained: bool) -> None:
        self.pretrained = pretrained

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Called by pytest after collection."""
        kept = [item for item in items if self._keeps(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept

    def _keeps(self, item: pytest.Item) -> bool:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        is_ours = str(parameters.get("model_name", "")).partition(".")[0] in NAMES
        return is_ours and (self.pretrained or not item.name.startswith(DOWNLOADING))


def with_our_names(source: str) -> str:
    """The test file's text, importing vrwkv first and with our names in two of its lists.

    Raises:
        ValueError: it has no such lists: timm has changed its tests.
    """
    additions = {
        "FEAT_INTER_FILTERS": sorted(MODULES),
        "NON_STD_FILTERS": [f"{name}*" for name in sorted(NAMES)],
    }
    for variable, entries in additions.items():
        source = _with_entries(source, variable, entries)
    return "import vrwkv\n" + source


def _with_entries(source: str, variable: str, entries: Iterable[str]) -> str:
    opening = f"\n{variable} = ["
    if source.count(opening) != 1:
        raise ValueError(f"timm's test file has no list {variable}; this timm version has other tests")
    return source.replace(opening, opening + "".join(f"{entry!r}, " for entry in entries))


def main() -> int:
    """Command line; returns pytest's exit status."""
    parser = argparse.ArgumentParser(description="Run timm's own model tests on the models registered here.")
    parser.add_argument("test_file", type=Path, help="tests/test_models.py of timm's source distribution")
    parser.add_argument("--pretrained", action="store_true", help="also run the tests that download weights")
    arguments, pytest_options = parser.parse_known_args()
    if not arguments.test_file.is_file():
        parser.error(f"{arguments.test_file} does not exist")
    with tempfile.TemporaryDirectory() as folder:
        test_file = Path(folder) / "test_models.py"
        test_file.write_text(with_our_names(arguments.test_file.read_text(encoding="utf-8")), encoding="utf-8")
        (Path(folder) / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # ours must not apply
        options = ["-q", "-rsf", "-p", "no:cacheprovider", "-W", "ignore", f"--rootdir={folder}", *pytest_options]
        return int(pytest.main([*options, str(test_file)], plugins=[OnlyOurModels(arguments.pretrained)]))


if __name__ == "__main__":
    sys.exit(main())
