"""Sentences that turn a class name into captions, and sets of them by name."""

import difflib
import re
from collections.abc import Callable, Sequence

from vrwkv.errors import InputError

Template = str | Callable[[str], str]

_PLACEHOLDER = re.compile(r"\{c?\}")

DIGITS_TRAINING = (
    "a scan of the digit {}.",
    "a handwritten {}.",
    "the number {}, written by hand.",
    "a small picture of the digit {}.",
    "someone wrote the number {}.",
    "a {} in white on black.",
    "a blurry scan of a {}.",
    "this is the digit {}.",
    "a low resolution image of the number {}.",
    "the digit {} in somebody's handwriting.",
    "one digit, a {}.",
    "a scanned form with a {} on it.",
)
DIGITS_EVALUATION = (
    "a photo of the digit {}.",
    "an image of a handwritten {}.",
    "the handwritten digit {}.",
    "a picture of the number {}.",
    "a scan of the number {}.",
    "a pixelated {}.",
)
TEMPLATE_SETS = ("digits", "digits_evaluation", "imagenet", "simple")


def named_templates(name: str) -> tuple[str, ...]:
    """The templates of a set, each with the placeholder {}.

    "digits" and "digits_evaluation" are for `DigitsSource` and have none in common; "imagenet" (80) and "simple" (7)
    are open_clip's.

    Raises:
        InputError: no such set.
    """
    if name == "digits":
        return DIGITS_TRAINING
    if name == "digits_evaluation":
        return DIGITS_EVALUATION
    if name in TEMPLATE_SETS:
        import open_clip

        functions = {
            "imagenet": open_clip.OPENAI_IMAGENET_TEMPLATES,
            "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
        }[name]
        return tuple(as_text(function) for function in functions)
    near = difflib.get_close_matches(name, TEMPLATE_SETS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f": choose from {', '.join(TEMPLATE_SETS)}"
    raise InputError(f"no template set {name!r}{hint} (a template of your own needs the placeholder {{}})")


def as_text(template: Template) -> str:
    """A template as text with a placeholder; open_clip's are functions, which do not survive pickling.

    Raises:
        InputError: it has no placeholder.
    """
    text = template if isinstance(template, str) else template("{}")
    if not _PLACEHOLDER.search(text):
        raise InputError(f"template {text!r} has no place for the class name: write {{}} where it belongs")
    return text


def resolve_templates(templates: str | Sequence[Template]) -> tuple[str, ...]:
    """Templates from any mixture of set names, template texts and functions; a text without placeholder is a name.

    Raises:
        InputError: nothing given, or no set of that name.
    """
    resolved: list[str] = []
    for template in [templates] if isinstance(templates, str) else templates:
        if isinstance(template, str) and not _PLACEHOLDER.search(template):
            resolved.extend(named_templates(template))
        else:
            resolved.append(as_text(template))
    if not resolved:
        raise InputError(f"no caption templates given: name a set ({', '.join(TEMPLATE_SETS)}) or write some with {{}}")
    return tuple(resolved)


def fill_template(template: Template, class_name: str) -> str:
    """The caption: `class_name` in place of every {} or {c}; other braces stay. A function is called."""
    if not isinstance(template, str):
        return template(class_name)
    return _PLACEHOLDER.sub(lambda _: class_name, template)
