import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rwkv_clip.data.build import build_source
from rwkv_clip.data.captioned import CaptionedSource
from rwkv_clip.data.config import AugmentationConfig, SourceConfig
from rwkv_clip.data.source import ShuffledCaptions
from rwkv_clip.data.templates import (
    DIGITS_EVALUATION,
    DIGITS_TRAINING,
    fill_template,
    named_templates,
    resolve_templates,
)
from rwkv_clip.data.transform import ImageTransform, PairTransform, training_preprocess
from vrwkv.data import DigitsSource, TrainLoader
from vrwkv.errors import InputError


def test_digit_templates_do_not_overlap() -> None:
    assert len(set(DIGITS_TRAINING)) >= 12
    assert len(set(DIGITS_EVALUATION)) >= 5
    assert not set(DIGITS_TRAINING) & set(DIGITS_EVALUATION)
    assert all("{}" in text for text in DIGITS_TRAINING + DIGITS_EVALUATION)


def test_open_clip_templates_become_the_same_captions_as_text() -> None:
    import open_clip

    for name, functions in (
        ("imagenet", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("simple", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert [fill_template(text, "tench") for text in named_templates(name)] == [f("tench") for f in functions]


def test_filling() -> None:
    assert fill_template("a {} and {c}, {x}", "{c}at") == "a {c}at and {c}at, {x}"
    assert fill_template(lambda name: f"<{name}>", "dog") == "<dog>"


def test_resolving() -> None:
    resolved = resolve_templates(["digits_evaluation", "my {}", lambda c: f"the {c}!"])
    assert resolved == (*DIGITS_EVALUATION, "my {}", "the {}!")
    assert resolve_templates("digits") == DIGITS_TRAINING
    for mistake, message in (
        (["imagnet"], "did you mean 'imagenet'"),
        (["a photo of a cat"], "placeholder"),
        ([], "no caption templates"),
        ([lambda c: "nothing"], "no place for the class name"),
    ):
        with pytest.raises(InputError, match=message):
            resolve_templates(mistake)


class Cars:
    def __init__(self) -> None:
        self.class_names = ["fire_truck", "taxi"]
        self.labels = np.array([1, 0, 1])

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"image": Image.new("RGB", (2, 2)), "label": int(self.labels[index]), "name": f"car {index}"}


def test_captions_of_a_labelled_source() -> None:
    source = CaptionedSource(Cars(), ["a {}.", "{c}!"])
    assert source.class_names == ["fire truck", "taxi"]
    assert source[1]["captions"] == source.captions(1) == ["a fire truck.", "fire truck!"]
    assert source[0]["label"] == 1
    assert source[2]["captions"] == ["a taxi.", "taxi!"]


def test_shuffled_captions_break_the_pairing_and_keep_the_set() -> None:
    plain = build_source(SourceConfig(kind="digits"))
    shuffled = pickle.loads(pickle.dumps(build_source(SourceConfig(kind="digits", shuffle_captions=True))))
    before = [plain.captions(i)[0] for i in range(len(plain))]
    after = [shuffled.captions(i)[0] for i in range(len(shuffled))]
    assert Counter(before) == Counter(after)
    agreement = np.mean([a == b for a, b in zip(before, after, strict=True)])
    assert agreement < 0.15  # chance is 0.1
    again = build_source(SourceConfig(kind="digits", shuffle_captions=True))
    assert after == [again.captions(i)[0] for i in range(len(again))]
    sample = shuffled[7]
    assert sample["captions"] == shuffled.captions(7)
    assert sample["label"] == plain[7]["label"]
    assert sample["image"].tobytes() == plain[7]["image"].tobytes()
    assert shuffled.class_names == plain.class_names
    assert list(shuffled.labels) == list(plain.labels)


@pytest.mark.parametrize("length", [2, 3, 10])
def test_no_sample_keeps_its_own_captions(length: int) -> None:
    class Numbered(Cars):
        def __len__(self) -> int:
            return length

        def captions(self, index: int) -> list[str]:
            return [str(index)]

        def image_key(self, index: int) -> str:
            return str(index)

    shuffled = ShuffledCaptions(Numbered())
    given = [shuffled.captions(i)[0] for i in range(length)]
    assert sorted(given) == sorted(str(i) for i in range(length))
    assert all(text != str(i) for i, text in enumerate(given))


def lengths(texts: list[str]) -> Tensor:
    return torch.tensor([[len(text), 0] for text in texts])


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1)


def test_pair_transform_draws_captions_uniformly() -> None:
    transform = PairTransform(to_tensor, lengths)
    sample = {"image": Image.new("RGB", (3, 2)), "captions": ["a", "bb", "ccc"], "label": 4, "index": 9, "name": "x"}
    generator = np.random.default_rng(0)
    results = [transform(sample, generator) for _ in range(600)]
    assert results[0]["image"].shape == (3, 2, 3)
    assert (results[0]["label"], results[0]["index"]) == (4, 9)
    assert results[0].keys() == {"image", "text", "label", "index"}
    counts = Counter(int(result["text"][0]) for result in results)
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 150
    assert ImageTransform(to_tensor)(sample, generator).keys() == {"image", "label", "index"}


@pytest.mark.parametrize(
    "augmentation",
    [
        AugmentationConfig(),
        AugmentationConfig(
            scale=(0.5, 1.0), ratio=(0.8, 1.25), color_jitter=0.4, random_erasing=0.5, horizontal_flip=0.5
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_open_clip_augmentation_is_reproducible_in_workers(augmentation: AugmentationConfig) -> None:
    from open_clip import get_tokenizer
    from open_clip.transform import PreprocessCfg

    preprocess = training_preprocess(PreprocessCfg(size=32), augmentation)
    transform = PairTransform(preprocess, get_tokenizer("ViT-B-32"))
    source = build_source(SourceConfig(kind="digits", split="train"))
    runs = [
        list(TrainLoader(source, transform, batch_size=4, seed=1, num_workers=workers).batches(0, 3))
        for workers in (0, 2)
    ]
    for one, other in zip(*runs, strict=True):
        assert one["image"].shape == (4, 3, 32, 32)
        assert one["image"].dtype == torch.float32
        assert one["text"].shape == (4, 77)
        assert one["text"].dtype == torch.int64
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_horizontal_flip_mirrors() -> None:
    from open_clip.transform import PreprocessCfg

    image = DigitsSource()[0]["image"]
    plain, mirrored = (
        training_preprocess(PreprocessCfg(size=8), AugmentationConfig(scale=(1.0, 1.0), horizontal_flip=p))(image)
        for p in (0.0, 1.0)
    )
    assert torch.equal(plain.flip(2), mirrored)
    assert not torch.equal(plain, mirrored)
