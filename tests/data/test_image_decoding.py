import io
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrwkv.data.source import CorruptSample, open_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    values = np.arange(24 * 16, dtype=np.uint8).reshape(24, 16)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = open_image(encoded(gradient(mode), "TIFF" if mode == "CMYK" else "PNG"))
    assert image.mode == "RGB"
    assert image.size == (16, 24)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    pixels = np.asarray(open_image(encoded(Image.fromarray(values))))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize(("largest", "expected"), [(1.0, 128), (200.0, 100)])
def test_float_gray(largest: float, expected: int) -> None:
    values = np.array([[0, largest / 2, largest]], dtype=np.float32)
    assert np.asarray(open_image(encoded(Image.fromarray(values), "TIFF")))[0, 1, 0] == expected


def test_unknown_range_and_not_finite_are_corrupt() -> None:
    for value in (1e6, np.nan, -1.0):
        data = encoded(Image.fromarray(np.full((2, 2), value, dtype=np.float32)), "TIFF")
        with pytest.raises(CorruptSample):
            open_image(data, "x")


def test_transparency_shows_white() -> None:
    hidden_black = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert np.asarray(open_image(encoded(hidden_black))).min() == 255
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(open_image(encoded(palette, transparency=0))).min() == 255
        assert np.asarray(open_image(encoded(palette)))[0, 0].tolist() == [10, 20, 30]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = open_image(encoded(gradient(), exif=exif))
    assert upright.size == (24, 16)
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(gradient()), -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_files_are_corrupt(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(CorruptSample, match=r"^a\.x: .*"):
        open_image(data[: len(data) // 2], "a.x")


def test_other_files_are_corrupt_with_a_stable_reason(tmp_path: Path) -> None:
    for data in (b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50):
        with pytest.raises(CorruptSample) as caught:
            open_image(data, "b.png")
        assert "0x" not in caught.value.reason
    with pytest.raises(CorruptSample, match="file not found"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(CorruptSample, match="directory"):
        open_image(tmp_path)


def test_corrupt_sample_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(CorruptSample("a", "b\n c")))
    assert (copy.name, copy.reason, str(copy)) == ("a", "b c", "a: b c")
