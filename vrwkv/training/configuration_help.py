"""The `--help` of a training command: every key in the `key=value` form that users type, its meaning and default."""

import dataclasses
import enum
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from vrwkv.training.config_fields import is_collection, section_type
from vrwkv.training.field_meanings import field_meanings

WIDTH = 80


def format_help(config_class: type, program: str, description: str) -> str:
    """Help text of a command: usage, description, then every key with its type, meaning and default.

    Args:
        config_class: dataclass of the configuration; the string under a field is its meaning.
        program: name of the command.
        description: what it does.
    """
    usage = (
        f"usage: {program} [--config FILE.yaml] [key=value ...]\n\n{textwrap.fill(description, WIDTH)}\n\n"
        "Values come from the defaults below, then the YAML file, then the key=value\n"
        "arguments. key=null switches an optional value off. Lists are written\n"
        "'key=[a, b]' and mappings 'key={name: value}'; the quotation marks keep the\n"
        "shell from taking them apart.\n\n"
        f"Example: {program} --config FILE.yaml run.output=runs/first train.lr=5e-4\n"
    )
    return "\n".join([usage, *_sections(config_class, "", dataclasses.MISSING, "")])


def _sections(config_class: Any, prefix: str, defaults: Any, meaning: str) -> Iterator[str]:
    """The plain keys of a dataclass as one text, then those of each section in it.

    Args:
        config_class: the dataclass.
        prefix: of its keys, with the dot.
        defaults: an instance with the values where nothing is given; MISSING or None: the dataclass's own.
        meaning: what the section is for.
    """
    hints, meanings = typing.get_type_hints(config_class), field_meanings(config_class)
    keys, inner = [], []
    for field in dataclasses.fields(config_class):
        if not field.init:
            continue
        default = _default(field) if defaults in (None, dataclasses.MISSING) else getattr(defaults, field.name)
        said, section = meanings.get(field.name, ""), section_type(hints[field.name])
        if section is None:
            keys.append(_key(f"{prefix}{field.name}", hints[field.name], default, said))
        else:
            said = said or inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0]
            said += " Off until one of its keys is given." if default is None else ""
            inner.append((section, f"{prefix}{field.name}.", default, said))
    if keys:
        heading = [f"{prefix[:-1] or 'general'}:", *([_paragraph(meaning, 2)] if meaning else [])]
        yield "\n".join([*heading, *keys, ""])
    for each in inner:
        yield from _sections(*each)


def _key(key: str, annotation: Any, default: Any, meaning: str) -> str:
    value = "(required)" if default is dataclasses.MISSING else f"(default: {_shown(default)})"
    return f"  {key}={_kind(annotation)}\n{_paragraph(f'{meaning} {value}', 8)}"


def _paragraph(text: str, indentation: int) -> str:
    margin = " " * indentation
    return textwrap.fill(text.strip(), WIDTH, initial_indent=margin, subsequent_indent=margin, break_long_words=False)


def _default(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _kind(annotation: Any) -> str:
    """What to write after the equals sign: `FLOAT`, `null|INT`, `{soft,hard}`, `[FLOAT, FLOAT]`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        arms = ["null"] * (type(None) in arguments)
        return "|".join([*arms, *(_kind(arm) for arm in arguments if arm is not type(None))])
    if origin is Literal:
        return f"{{{','.join(map(str, arguments))}}}"
    if annotation is bool:
        return "{true,false}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return f"{{{','.join(annotation.__members__)}}}"
    if annotation is dict or origin is dict:
        value = _kind(arguments[1]) if arguments else "VALUE"
        return f"{{NAME: {'VALUE' if '|' in value else value}, ...}}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(map(_kind, arguments))}]"
    if is_collection(annotation):
        return f"[{_kind(arguments[0]) if arguments else 'VALUE'}, ...]"
    return "VALUE" if annotation is Any else annotation.__name__.upper()


def _shown(value: Any) -> str:
    """A default as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_shown(entry)}' for name, entry in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "''"
