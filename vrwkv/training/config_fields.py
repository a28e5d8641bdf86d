"""A configuration seen as dotted keys with typed values: what the YAML file, the overrides and the comparison share."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

NULL_WORDS = frozenset({"null", "Null", "NULL", "none", "None", "~"})
_TRUE_WORDS = frozenset({"true", "yes", "on"})
_FALSE_WORDS = frozenset({"false", "no", "off"})


def without_none(annotation: Any) -> tuple[Any, bool]:
    """Split an optional type: `float | None` -> (`float`, True), `float` -> (`float`, False)."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    arms = [arm for arm in get_args(annotation) if arm is not type(None)]
    return Union[tuple(arms)], len(arms) < len(get_args(annotation))  # noqa: UP007 - built from a list


def section_type(annotation: Any) -> type | None:
    """The dataclass behind a field that is a section of its own, None for a plain value."""
    inner, _ = without_none(annotation)
    return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None


def config_keys(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type annotation of every field, sections included, in the order of declaration."""
    hints = typing.get_type_hints(config_class)
    keys: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if not field.init:
            continue
        key = prefix + field.name
        keys[key] = hints[field.name]
        section = section_type(keys[key])
        if section is not None:
            keys.update(config_keys(section, f"{key}."))
    return keys


def flatten_config(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every plain field of a configuration, in the order of declaration."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from flatten_config(value, f"{prefix}{field.name}.")
        elif field.init:
            yield prefix + field.name, value


def is_collection(annotation: Any) -> bool:
    """Whether values of this type are written as a list or a mapping."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(is_collection(arm) for arm in get_args(annotation))
    return annotation in (list, tuple, set, frozenset, dict) or origin in (list, tuple, set, frozenset, dict, Sequence)


def describe_type(annotation: Any) -> str:
    """A type in the words of an error message: `float or null`, `one of fp32, bf16`, `a list of 2 floats`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if arm is type(None) else describe_type(arm) for arm in arguments)
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in arguments)}"
    if annotation is bool:
        return "true or false"
    if origin is tuple and arguments[-1] is not Ellipsis:
        kinds = {describe_type(argument) for argument in arguments}
        kind = kinds.pop() if len(kinds) == 1 else "value"
        return f"a list of {len(arguments)} {kind}s such as [{', '.join('abcdefgh'[: len(arguments)])}]"
    if origin is dict:
        return f"a mapping of {describe_type(arguments[0])} to {describe_type(arguments[1])}"
    if is_collection(annotation):
        return f"a list of {describe_type(arguments[0])}s" if arguments else "a list"
    return getattr(annotation, "__name__", str(annotation))


def parse_value(annotation: Any, value: Any) -> Any:
    """Turn what a YAML file or an override holds into a value of the field's type.

    Args:
        annotation: type of the field; scalars are parsed by tyro.
        value: text, None, or lists and mappings of these. The type decides what a text means, so `1e-3` is a float
            where a float is due and stays a text where a text is due.

    Raises:
        ValueError: the value does not fit; the message is not for users.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        return _parse_union(annotation, value)
    if is_collection(annotation):
        return _parse_collection(origin or annotation, arguments, value)
    if value is None or isinstance(value, (list, dict)):
        raise ValueError("a single value is due")
    text = str(value)
    if annotation is bool:
        if text.lower() not in _TRUE_WORDS | _FALSE_WORDS:
            raise ValueError("true or false is due")
        return text.lower() in _TRUE_WORDS
    return _parse_scalar(annotation, text)


def _parse_union(annotation: Any, value: Any) -> Any:
    inner, optional = without_none(annotation)
    arms = get_args(inner) if get_origin(inner) in (Union, types.UnionType) else (inner,)
    if optional and (value is None or (str not in arms and isinstance(value, str) and value in NULL_WORDS)):
        return None
    for arm in sorted(arms, key=lambda arm: arm is str):  # every text is a str, so that arm comes last
        try:
            return parse_value(arm, value)
        except ValueError:
            continue
    raise ValueError("no type of the union fits")


def _parse_collection(kind: Any, arguments: tuple[Any, ...], value: Any) -> Any:
    if kind is dict:
        key_type, value_type = arguments or (str, Any)
        if not isinstance(value, Mapping):
            raise ValueError("a mapping is due")
        return {parse_value(key_type, key): parse_value(value_type, entry) for key, entry in value.items()}
    if isinstance(value, dict) or value is None:
        raise ValueError("a list is due")
    items = value if isinstance(value, list) else [value]
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(items) != len(arguments):
            raise ValueError("a list of another length is due")
        return tuple(parse_value(argument, item) for argument, item in zip(arguments, items, strict=True))
    element = arguments[0] if arguments else Any
    parsed = [parse_value(element, item) for item in items]
    return parsed if kind in (list, Sequence) else kind(parsed)


def _parse_scalar(annotation: Any, text: str) -> Any:
    from tyro.constructors import ConstructorRegistry, PrimitiveTypeInfo, UnsupportedTypeAnnotationError

    if annotation is float and text.lower().lstrip("+-") in (".inf", ".nan"):  # YAML's spelling
        text = text.replace(".", "")
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(annotation, set()))
    if isinstance(spec, UnsupportedTypeAnnotationError):
        raise TypeError(f"configuration fields cannot be of type {annotation}")
    if spec.choices is not None and text not in spec.choices:
        raise ValueError(f"not one of {spec.choices}")
    return spec.instance_from_str([text])
