"""The `--help` of a training command: tyro's table of every field, written in the `key=value` form that users type."""

import contextlib
import dataclasses
import io
import re
import typing
from typing import Any

from vrwkv.training.config_fields import section_type


def format_help(config_class: type, program: str, description: str) -> str:
    """Help text of a command: usage, description, then every key with its type, meaning and default.

    Args:
        config_class: dataclass of the configuration; the docstring under a field is its meaning.
        program: name of the command.
        description: what it does.
    """
    usage = (
        f"usage: {program} [--config FILE.yaml] [key=value ...]\n\n{description}\n\n"
        "Values come from the defaults below, then the YAML file, then the key=value arguments. Lists are written\n"
        "key=[a, b]; key=null switches an optional value off.\n\n"
        f"Example: {program} --config FILE.yaml run.output=runs/first train.lr=5e-4\n"
    )
    return "\n".join([usage, *_tables(config_class, "")])


def _tables(config_class: Any, prefix: str) -> list[str]:
    """One table for a dataclass with its sections, then one for each optional section that is off by default."""
    tables = [_table(config_class, prefix)]
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        section = section_type(hints[field.name])
        if section is None:
            continue
        inner = _tables(section, f"{prefix}{field.name}.")
        if field.default is not None:
            inner = inner[1:]  # the section's own keys stand in this table already
        tables += inner
    return tables


def _table(config_class: Any, prefix: str) -> str:
    import tyro

    captured = io.StringIO()
    markers = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    with contextlib.redirect_stdout(captured), contextlib.suppress(SystemExit):
        tyro.cli(config_class, args=["--help"], prog="", description="", use_underscores=True, config=markers)
    # tyro frames its tables when it thinks the terminal can show the frames
    lines = [re.sub(r"[│╭╮╰╯─]", " ", line).rstrip() for line in captured.getvalue().splitlines()]
    blocks = re.split(r"\n\s*\n", "\n".join(lines))[1:]  # the first one is tyro's usage
    tables = [_rewrite(block, prefix) for block in blocks]
    return "\n".join(table for table in tables if table)


def _rewrite(block: str, prefix: str) -> str:
    """One table in `key=value` form, without rules and without the row of `--help`; empty if nothing else is in it."""
    block = re.sub(r"^ *-h, --help.*\n?(?: +show this help.*)?$", "", block, flags=re.MULTILINE)
    rows = [line for line in block.splitlines() if line.strip(" -")]
    if not any(line.lstrip().startswith("--") for line in rows):
        return ""
    heading = rows[0].strip().removesuffix("options").strip()
    section = f"{prefix}{heading}".strip(".")
    return "\n".join(
        [f"{section}:" if section else "general:", *(_key_value_form(row, prefix) for row in rows[1:]), ""]
    )


def _key_value_form(row: str, prefix: str) -> str:
    """`--train.lr FLOAT` -> `train.lr=FLOAT`; other rows say null, true and false as YAML does."""
    match = re.match(r"(?P<indent> *)--(?P<key>[\w.]+) (?P<kind>\S+(?: \S+)*)(?P<help>  .*)?$", row)
    if match is None:
        for python, yaml in (("None", "null"), ("True", "true"), ("False", "false")):
            row = re.sub(rf"(\(default: |^ +){python}\)$", rf"\g<1>{yaml})", row)
        return row
    kind = match["kind"].replace("{None}|", "null|").replace("{True,False}", "{true,false}")
    kind = re.sub(r"\{?([A-Z]+(?: [A-Z]+)+)\}?", lambda several: f"[{', '.join(several[1].split())}]", kind)
    kind = re.sub(r"\[([A-Z]+) \[\1 \.\.\.\]\]", r"[\1, ...]", kind)
    help_text = f"\n        {match['help'].strip()}" if match["help"] else ""
    return f"{match['indent']}{prefix}{match['key']}={kind}{help_text}"
