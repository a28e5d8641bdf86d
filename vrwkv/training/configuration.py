"""Configurations from a YAML file and `key=value` overrides, and back to YAML. Every mistake is one line."""

import dataclasses
import difflib
import enum
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vrwkv.errors import InputError
from vrwkv.training.config_fields import (
    NULL_WORDS,
    config_keys,
    describe_type,
    is_collection,
    parse_value,
    section_type,
    without_none,
)

ConfigT = TypeVar("ConfigT")

_COMMAND_LINE = "on the command line"


def load_config(config_class: type[ConfigT], file: str | Path | None, overrides: Sequence[str] = ()) -> ConfigT:
    """Build a configuration from a dataclass's defaults, then a YAML file, then overrides; the last word counts.

    Args:
        config_class: a dataclass whose fields are plain values or further dataclasses (sections).
        file: YAML file of nested sections, or None.
        overrides: `section.key=value`; lists as in YAML (`optim.betas=[0.9, 0.98]`), `null` for an optional value.

    Raises:
        InputError: a missing or unreadable file, an unknown or missing key, a value of the wrong type or one that the
            dataclass forbids.
    """
    keys = config_keys(config_class)
    values: dict[str, Any] = {}
    if file is not None:
        content = parse_yaml(_read_text(find_config(file)), str(file))
        _assign(values, keys, content, prefix="", where=f"in {file}")
    for override in overrides:
        _assign_override(values, keys, override)
    where = " and ".join([str(file)] * (file is not None) + ["the overrides"] * bool(overrides)) or "the defaults"
    return _build(config_class, values, "", None, where)


def parse_command_line(config_class: type[ConfigT], arguments: Sequence[str], description: str) -> ConfigT:
    """Read a training command's arguments: `[--config FILE.yaml] [key=value ...]`; `--help` prints every key and exits.

    Args:
        config_class: as for `load_config`.
        arguments: what follows the program's name.
        description: what the command does, for `--help`.

    Raises:
        InputError: as for `load_config`, or an argument of another form.
        SystemExit: status 0 after `--help`.
    """
    file: str | None = None
    overrides: list[str] = []
    show_help = False
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument in ("-h", "--help"):
            show_help = True
        elif argument == "--config" or argument.startswith("--config="):
            if argument == "--config" and not remaining:
                raise InputError("--config needs a file: --config FILE.yaml")
            if file is not None:
                raise InputError(
                    f"--config is given twice: {file} came first; later values go into key=value overrides"
                )
            file = argument.removeprefix("--config=") if "=" in argument else remaining.pop(0)
        elif "=" not in argument:
            hint = f"--config {argument}" if argument.endswith((".yaml", ".yml")) else "train.lr=1e-3"
            raise InputError(f"cannot read the argument '{argument}': write key=value or --config FILE (e.g. {hint})")
        else:
            overrides.append(argument.removeprefix("--"))
    if show_help:
        from vrwkv.training.configuration_help import format_help

        print(format_help(config_class, Path(sys.argv[0]).name, description))
        raise SystemExit(0)
    return load_config(config_class, file, overrides)


def config_to_yaml(config: Any) -> str:
    """Write a configuration as YAML from which `load_config` rebuilds an equal one."""
    import yaml

    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True, width=float("inf"))


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """Read a YAML mapping whose plain scalars stay text (null apart): a field's type decides what they mean.

    Args:
        text: the document; empty means no keys.
        name: its file, for error messages.

    Raises:
        InputError: not YAML, not a mapping, or a key that stands there twice.
    """
    import yaml

    try:
        content = yaml.load(text, _text_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"{name}{line} is not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            f"{name} must hold sections with keys (such as 'train:' with 'lr: 1e-3' below), got {content!r}"
        )
    return content


def _text_loader() -> Any:
    import yaml

    class TextLoader(yaml.SafeLoader):
        """Resolves null and merge keys only and refuses duplicate keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            seen: set[str] = set()
            for key_node, _ in node.value:
                if key_node.tag != "tag:yaml.org,2002:merge" and key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key '{key_node.value}' stands there twice", problem_mark=key_node.start_mark
                    )
                seen.add(str(key_node.value))
            return super().construct_mapping(node, deep)

    kept = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    TextLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in kept]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return TextLoader


def find_config(file: str | Path) -> Path:
    """`file` where it is, or else the recipe of that name that came with the package (configs/clip/x.yaml)."""
    file = Path(file)
    if file.exists() or file.is_absolute():
        return file
    parts = file.parts[1:] if file.parts[:1] == ("configs",) else file.parts
    package = Path(__file__).resolve().parents[1]
    # Inside the package when it was installed, beside it in a clone.
    for folder in (package / "configs", package.parent / "configs"):
        if folder.joinpath(*parts).is_file():
            return folder.joinpath(*parts)
    return file


def _read_text(file: Path) -> str:
    if file.is_dir():
        raise InputError(f"config file '{file}' is a folder: name a YAML file in it")
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read config file '{file}': {error}") from None
    if not file.parent.is_dir():
        raise InputError(f"config file '{file}' not found: there is no folder '{file.parent}'")
    siblings = sorted(entry.name for entry in file.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    close = difflib.get_close_matches(file.name, siblings, n=3) or siblings[:3]
    hint = f"; did you mean {' or '.join(repr(str(file.parent / name)) for name in close)}?" if close else ""
    raise InputError(f"config file '{file}' not found{hint}")


def _assign(values: dict[str, Any], keys: Mapping[str, Any], content: Mapping, *, prefix: str, where: str) -> None:
    for name, value in content.items():
        key = f"{prefix}{name}"
        if key not in keys:
            raise InputError(_unknown_key(key, keys, where))
        section = section_type(keys[key])
        if section is None:
            _set(values, key, _parse(keys[key], value, key, where))
        elif isinstance(value, Mapping):
            _assign(values, keys, value, prefix=f"{key}.", where=where)
        elif value is None:
            if without_none(keys[key])[1]:
                _set(values, key, None)
        else:
            raise InputError(f"'{key}' {where} is a section with keys of its own (such as '{key}."
                             f"{dataclasses.fields(section)[0].name}'), got {value!r}")  # fmt: skip


def _assign_override(values: dict[str, Any], keys: Mapping[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    key = key.strip()
    if not separator or not key:
        raise InputError(f"cannot read the override '{override}': write key=value, such as train.lr=1e-3")
    if key not in keys:
        raise InputError(_unknown_key(key, keys, _COMMAND_LINE))
    annotation = keys[key]
    value: Any = text
    if without_none(annotation)[1] and text in NULL_WORDS:
        value = None
    elif is_collection(annotation) and text.lstrip()[:1] in ("[", "{"):
        try:
            value = parse_yaml(f"value: {text}", override)["value"]
        except InputError:
            value = text  # a text that only looks like YAML, such as a template that begins with {}
    nested: dict[str, Any] = {key: value}
    _assign(values, keys, nested, prefix="", where=_COMMAND_LINE)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Enter a value so that later words win: a section set to null drops its keys, a key revives its section."""
    for other in [other for other in values if other.startswith(f"{key}.") or key.startswith(f"{other}.")]:
        del values[other]
    values[key] = value


def _parse(annotation: Any, value: Any, key: str, where: str) -> Any:
    try:
        return parse_value(annotation, value)
    except (ValueError, OverflowError):
        shown = "null" if value is None else repr(value)
        raise InputError(f"'{key}' {where}: expected {describe_type(annotation)}, got {shown}") from None


def _unknown_key(key: str, keys: Mapping[str, Any], where: str) -> str:
    same_name = [known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]]
    close = same_name[:1] or difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if close:
        return f"unknown key '{key}' {where}; did you mean '{close[0]}'?"
    section = key.rpartition(".")[0]
    section = section if section in keys else ""
    siblings = [known for known in keys if known.rpartition(".")[0] == section]
    return f"unknown key '{key}' {where}; known {f'keys of {section!r}' if section else 'keys'}: {', '.join(siblings)}"


def _build(config_class: type[ConfigT], values: Mapping[str, Any], prefix: str, base: Any, where: str) -> ConfigT:
    """Construct a dataclass from the values under `prefix`; the rest comes from `base`, then from the defaults."""
    annotations = config_keys(config_class)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if not field.init:
            continue
        key = prefix + field.name
        default = getattr(base, field.name) if base is not None else _default(field)
        section = section_type(annotations[field.name])
        if key in values:
            arguments[field.name] = values[key]
        elif section is not None and (default is dataclasses.MISSING or any(k.startswith(f"{key}.") for k in values)):
            inner_base = default if dataclasses.is_dataclass(default) else None
            arguments[field.name] = _build(section, values, f"{key}.", inner_base, where)
        elif default is dataclasses.MISSING:
            raise InputError(f"missing key '{key}' (looked in {where}): it has no default, add {key}=...")
        else:
            arguments[field.name] = default
    try:
        return config_class(**arguments)
    except ValueError as error:
        section_name = f"section '{prefix[:-1]}' of " if prefix else ""
        raise InputError(f"{section_name}{where}: {error}") from None


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> Any:
    """Dataclasses, tuples, sets, enumerations and paths as what YAML can hold."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(entry) for entry in value)
    if isinstance(value, enum.Enum):
        return value.name
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
