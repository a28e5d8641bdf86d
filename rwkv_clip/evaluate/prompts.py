"""Class names put into sentences: what a zero-shot classifier shows to the text tower."""

from collections.abc import Callable, Sequence
from string import Formatter

from vrwkv.errors import InputError

Template = str | Callable[[str], str]
"""A format string with `{}` (open_clip, RWKV-CLIP) or `{c}` (CLIP_benchmark), or a function of the class name."""


def render_prompt(template: Template, class_name: str) -> str:
    """The template with the class name at each of its placeholders."""
    if callable(template):
        return template(class_name)
    return template.format(*[class_name] * _placeholders(template).count(""), c=class_name)


def check_prompts(class_names: Sequence[str], templates: Sequence[Template]) -> None:
    """Refuse class names and templates that cannot make a classifier.

    Raises:
        InputError: no class, a blank or repeated class name, no template, a template whose prompts do not depend on
            the class, malformed braces, or a single string where a list is needed.
    """
    _check_class_names(class_names)
    if isinstance(templates, str) or callable(templates):
        raise InputError(f"templates must be a list of templates, got the single template {templates!r}")
    if not templates:
        raise InputError("no templates given; at least one such as 'a photo of a {}.' is needed")
    for template in templates:
        if callable(template):
            _check_function(template, class_names)
        else:
            _check_format(template)


def _check_class_names(class_names: Sequence[str]) -> None:
    if isinstance(class_names, str):
        raise InputError(f"class names must be a list of strings, got the string {class_names!r}")
    if not class_names:
        raise InputError("no class names given; zero-shot classification needs at least one")
    seen: dict[str, int] = {}
    for index, name in enumerate(class_names):
        if not name.strip():
            raise InputError(f"class name {index} is blank")
        if name.strip() in seen:
            raise InputError(f"class name {name!r} is given twice, as class {seen[name.strip()]} and as class {index}")
        seen[name.strip()] = index


def _check_format(template: str) -> None:
    try:
        fields = _placeholders(template)
    except ValueError as error:
        raise InputError(f"template {template!r} is malformed: {error}; write {{}} for the class name") from None
    if not fields:
        raise InputError(f"template {template!r} has no placeholder; write {{}} where the class name goes")
    for field in fields:
        if field not in ("", "c"):
            raise InputError(f"template {template!r} has the unknown placeholder {{{field}}}; write {{}} or {{c}}")
    try:
        render_prompt(template, "class")
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(f"template {template!r} cannot be filled in: {error}; write {{}} for the class name") from None


def _check_function(template: Callable[[str], str], class_names: Sequence[str]) -> None:
    probes = [*class_names[:2], "one class", "another class"][:2]
    prompts = [template(name) for name in probes]
    if prompts[0] == prompts[1]:
        raise InputError(
            f"a template function gives {prompts[0]!r} for both {probes[0]!r} and {probes[1]!r}; "
            "its prompt must contain the class name"
        )


def _placeholders(template: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]
