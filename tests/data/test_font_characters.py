"""The characters drawn from fonts: the same every time, all there, and no font on both sides of the split."""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageFont

from vrwkv.data import FontCharactersSource, LabelledDataConfig, build_labelled_source
from vrwkv.data.font_characters import CHARACTERS, FAMILIES, HELD_OUT_FAMILIES, SIZE, VARIANTS, _font_folder, _glyph
from vrwkv.errors import InputError

pytest.importorskip("matplotlib")
FONTS = [file for files in FAMILIES.values() for file in files]


def pixels(source: FontCharactersSource, index: int) -> np.ndarray:
    return np.asarray(source[index]["image"])


@pytest.mark.usefixtures("all_fonts")
def test_images_are_a_function_of_font_character_and_variant() -> None:
    source, again = FontCharactersSource(), pickle.loads(pickle.dumps(FontCharactersSource()))
    held_out = FontCharactersSource("held_out")
    names = {again[index]["name"]: index for index in range(len(again))}
    assert len(names) == len(source) == 22 * 36 * VARIANTS
    for index in range(0, len(held_out), 97):
        whole = names[held_out[index]["name"]]
        assert np.array_equal(pixels(held_out, index), pixels(source, whole))
        assert np.array_equal(pixels(source, whole), pixels(again, whole))
    assert len({pixels(source, index).tobytes() for index in range(40 * VARIANTS)}) == 40 * VARIANTS


@pytest.mark.usefixtures("all_fonts")
def test_samples_and_classes() -> None:
    source = build_labelled_source(LabelledDataConfig(kind="fonts", split="train"))
    assert source.class_names == list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert np.bincount(source.labels).tolist() == [16 * VARIANTS] * 36
    sample = source[11 * VARIANTS]
    assert (sample["image"].mode, sample["image"].size, sample["label"]) == ("RGB", (SIZE, SIZE), 11)
    assert sample["name"].startswith("B in DejaVuSans.ttf")
    gray = np.stack([np.asarray(source[index]["image"]) for index in range(200)])
    assert (gray == gray[..., :1]).all()
    assert (gray.max((1, 2, 3)).astype(int) - gray.min((1, 2, 3)) >= 60).all()


@pytest.mark.usefixtures("all_fonts")
def test_no_font_is_in_both_splits() -> None:
    train, held_out = FontCharactersSource("train"), FontCharactersSource("held_out")
    assert set(train.fonts) | set(held_out.fonts) == set(FONTS)
    assert not set(train.fonts) & set(held_out.fonts)
    assert set(held_out.fonts) == {file for family in HELD_OUT_FAMILIES for file in FAMILIES[family]}
    assert len(set(held_out.fonts)) == 6
    families = {ImageFont.truetype(str(_font_folder() / file)).getname()[0] for file in set(train.fonts)}
    assert not families & {ImageFont.truetype(str(_font_folder() / file)).getname()[0] for file in set(held_out.fonts)}


@pytest.mark.usefixtures("all_fonts")
@pytest.mark.parametrize("file", FONTS)
def test_a_font_has_every_character(file: str) -> None:
    path = str(_font_folder() / file)
    drawn = {character: np.asarray(_glyph(path, character)) for character in CHARACTERS}
    missing = np.asarray(_glyph(path, "\u0378"))  # no character of Unicode
    border = np.ones(missing.shape, dtype=bool)
    border[1:-1, 1:-1] = False
    for character, glyph in drawn.items():
        assert glyph.max() == 255, character
        assert not glyph[border].any(), character
        assert not np.array_equal(glyph, missing), character
    assert len({glyph.tobytes() for glyph in drawn.values()}) == len(CHARACTERS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "fonts"}, "path belongs to kind="),
        ({"name": "DejaVu Sans"}, "name belongs to kind=torchvision"),
        ({"split": "heldout"}, "did you mean 'held_out'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_labelled_source(LabelledDataConfig(kind="fonts", **options))


def test_missing_fonts_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import matplotlib

    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"lacks the font DejaVuSans\.ttf in .*: matplotlib 3\.11 has them all$"):
        FontCharactersSource()


def test_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"^the fonts come with matplotlib: pip install 'vrwkv\[train\]'$"):
        FontCharactersSource()
