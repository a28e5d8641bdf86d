from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from rwkv_clip.evaluate.classify_images import classify_images
from rwkv_clip.evaluate.embedding import embed_images, embed_texts
from rwkv_clip.evaluate.zero_shot import class_embeddings, zero_shot_classification
from vrwkv.errors import InputError

CONTEXT = 24


class ToyModel(nn.Module):
    """Images are embedded as their mean colour times a matrix, texts as the sum of a vector per character."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.colour = nn.Parameter(torch.randn(3, width, generator=generator))
        self.characters = nn.Parameter(torch.randn(256, width, generator=generator))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Dropout(0.5).eval()
        self.text_batches: list[int] = []

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        assert not self.training
        return image.mean(dim=(2, 3)) @ self.colour * 7

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        assert not self.training
        self.text_batches.append(len(text))
        return (self.characters[text] * (text > 0)[..., None]).sum(dim=1)


def tokenize(texts: list[str]) -> Tensor:
    ids = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
    for row, text in enumerate(texts):
        codes = list(text.encode())[:CONTEXT]
        ids[row, : len(codes)] = torch.tensor(codes)
    return ids


class KnownModel(ToyModel):
    """The image's mean colour and the text's colour word are the embeddings themselves."""

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        return image.mean(dim=(2, 3))

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        words = [bytes(row[row > 0].tolist()).decode() for row in text]
        return torch.stack(
            [torch.tensor([float(colour in word) for colour in ("red", "green", "blue")]) for word in words]
        )


TEMPLATES = ["a {}.", "{c} seen", lambda name: f"the {name}"]
NAMES = ["red", "green", "blue", "a {} b"]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_class_embeddings_average_normalised_templates(batch_size: int) -> None:
    model = ToyModel().train()
    actual = class_embeddings(model, tokenize, NAMES, TEMPLATES, "cpu", batch_size)
    assert max(model.text_batches) <= batch_size
    assert sum(model.text_batches) == len(NAMES) * len(TEMPLATES)
    model.eval()
    for row, name in enumerate(NAMES):
        prompts = [f"a {name}.", f"{name} seen", f"the {name}"]
        vectors = [model.encode_text(tokenize([prompt]))[0] for prompt in prompts]
        mean = sum(vector / vector.norm() for vector in vectors) / 3
        torch.testing.assert_close(actual[row], (mean / mean.norm()).detach(), rtol=1e-5, atol=1e-6)


def test_a_placeholder_may_occur_twice() -> None:
    repeated = class_embeddings(ToyModel(), tokenize, ["red"], ["{} or {} or {c}"])
    by_hand = embed_texts(ToyModel(), tokenize, ["red or red or red"])
    torch.testing.assert_close(repeated, by_hand)


def test_modes_return_to_what_each_module_had_and_results_can_be_trained_on() -> None:
    model = ToyModel().train()
    model.frozen.eval()
    features = embed_images(model, [{"image": torch.rand(2, 3, 4, 4)}, {"image": torch.rand(1, 3, 4, 4)}])
    assert model.training
    assert not model.frozen.training
    assert features.shape == (3, 6)
    probe = nn.Linear(6, 1)
    probe(features).sum().backward()  # an inference tensor would raise here
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    with pytest.raises(RuntimeError, match="broken"), torch.no_grad():
        embed_images(model, broken_batches())
    assert model.training


def broken_batches() -> Iterator[dict[str, Tensor]]:
    yield {"image": torch.rand(1, 3, 2, 2)}
    raise RuntimeError("broken")


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_embed_texts_keeps_order(batch_size: int) -> None:
    captions = [f"caption {index}" for index in range(9)]
    features = embed_texts(ToyModel(), tokenize, captions, batch_size)
    expected = F.normalize(ToyModel().eval().encode_text(tokenize(captions)), dim=1)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected.detach())


def test_half_precision_towers_give_float32_features_of_unit_length() -> None:
    model = ToyModel().bfloat16()
    features = [
        embed_images(model, [{"image": torch.rand(5, 3, 4, 4).bfloat16()}]),
        embed_texts(model, tokenize, ["a", "b", "c"]),
        class_embeddings(model, tokenize, ["cat", "dog"], TEMPLATES),
    ]
    for rows in features:
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)), rtol=1e-6, atol=1e-6)


def labelled_images(count: int, num_classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 4, 4, generator=generator)
    return images, torch.randint(0, num_classes, (count,), generator=generator)


def test_zero_shot_counts_equal_a_plain_loop() -> None:
    model, (images, labels) = ToyModel(), labelled_images(60, 8)
    weights = class_embeddings(model, tokenize, [f"class number {index}" for index in range(8)], TEMPLATES)
    batches = [{"image": images[start : start + 7], "label": labels[start : start + 7]} for start in range(0, 60, 7)]
    result = zero_shot_classification(model, batches, weights)
    features = model.eval().encode_image(images).detach()
    top1 = top5 = 0
    hits: dict[int, list[int]] = {}
    for feature, label in zip(features, labels.tolist(), strict=True):
        cosines = [float(feature @ weight / feature.norm() / weight.norm()) for weight in weights]
        ranking = sorted(range(8), key=lambda index: -cosines[index])
        top1 += ranking[0] == label
        top5 += label in ranking[:5]
        hits.setdefault(label, []).append(ranking[0] == label)
    assert result.top1 == pytest.approx(top1 / 60)
    assert result.top5 == pytest.approx(top5 / 60)
    assert result.mean_per_class == pytest.approx(sum(sum(hit) / len(hit) for hit in hits.values()) / len(hits))
    assert result.samples == 60 == int(result.confusion.sum())
    assert int(result.confusion.trace()) == top1
    assert torch.equal(result.targets, labels)
    assert result.metrics()["zero_shot_samples"] == 60


def test_scores_stay_float32_under_autocast() -> None:
    """Two classes whose cosines differ by less than bfloat16 (or an integer percentage) can tell."""

    class Fine(KnownModel):
        def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
            return image.mean(dim=(2, 3))

    weights = F.normalize(torch.tensor([[1.0, 0.001, 0.0], [1.0, 0.0, 0.0]]), dim=1)
    image = torch.tensor([1.0, 0.1, 0.0]).view(1, 3, 1, 1)
    batches = [{"image": image, "label": torch.tensor([0])}]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert zero_shot_classification(Fine(), batches, weights).top1 == 1


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], ["{}"], "no class names"),
        ("cat", ["{}"], "must be a list"),
        (["cat", " "], ["{}"], "class name 1 is blank"),
        (["cat", "dog", "cat"], ["{}"], "'cat' is given twice, as class 0 and as class 2"),
        (["cat"], [], "no templates"),
        (["cat"], "a {}", "must be a list"),
        (["cat"], ["{}", "a photo"], "'a photo' has no placeholder"),
        (["cat"], ["a {label}"], "unknown placeholder {label}"),
        (["cat"], ["a {"], "malformed"),
        (["cat"], ["a {:d}"], "cannot be filled in"),
        (["cat"], [lambda name: "a photo"], "must contain the class name"),
    ],
)
def test_class_names_and_templates_that_are_refused(names: list[str], templates: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        class_embeddings(ToyModel(), tokenize, names, templates)
    assert "\n" not in str(caught.value)


def test_evaluation_sets_that_are_refused() -> None:
    model, weights = ToyModel(), torch.eye(6)[:3]
    image = torch.rand(1, 3, 2, 2)
    with pytest.raises(InputError, match="no images"):
        zero_shot_classification(model, [], weights)
    with pytest.raises(InputError, match="no labels"):
        zero_shot_classification(model, [{"image": image}], weights)
    with pytest.raises(InputError, match="label 3 is not one of the 3 classes"):
        zero_shot_classification(model, [{"image": image, "label": torch.tensor([3])}], weights)
    with pytest.raises(InputError, match="no images"):
        embed_images(model, [])
    with pytest.raises(InputError, match="no captions"):
        embed_texts(model, tokenize, [])
    with pytest.raises(InputError, match="list of strings"):
        embed_texts(model, tokenize, "caption")
    for encode in (embed_texts, lambda *a: class_embeddings(*a[:3], ["{}"], "cpu", a[3])):
        with pytest.raises(InputError, match="batch size 0"):
            encode(model, tokenize, ["a"], 0)


def to_tensor(image: Image.Image) -> Tensor:
    return torch.tensor(list(image.resize((1, 1)).tobytes())).float().view(3, 1, 1) / 255


@pytest.mark.parametrize("batch_size", [1, 64])
def test_classify_images_ranks_by_known_probabilities(tmp_path: Path, batch_size: int) -> None:
    colours = {"a.png": (250, 90, 10), "b.png": (0, 100, 200)}
    for name, colour in colours.items():
        Image.new("RGB", (5, 4), colour).save(tmp_path / name)
    model, names = KnownModel(), ["green", "blue", "red"]
    paths = [tmp_path / name for name in colours]
    ranked = classify_images(model, to_tensor, tokenize, paths, names, ["a {} one"], "cpu", batch_size)
    assert [[name for name, _ in row] for row in ranked] == [["red", "green", "blue"], ["blue", "green", "red"]]
    for row, colour in zip(ranked, colours.values(), strict=True):
        assert sum(probability for _, probability in row) == pytest.approx(1, abs=1e-6)
        cosines = F.normalize(torch.tensor(colour).float(), dim=0)[[1, 2, 0]]
        expected = dict(zip(names, (torch.tensor(2.0).exp() * cosines).softmax(0).tolist(), strict=True))
        for name, probability in row:
            assert probability == pytest.approx(expected[name], abs=1e-5)


def test_classes_far_off_are_still_ranked_when_their_probability_is_zero(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (255, 1, 5)).save(tmp_path / "a.png")
    model = KnownModel()
    model.logit_scale.data.fill_(9.0)
    ranked = classify_images(model, to_tensor, tokenize, [tmp_path / "a.png"], ["green", "blue", "red"], ["{}"])
    assert [name for name, _ in ranked[0]] == ["red", "blue", "green"]
    assert ranked[0][1][1] == ranked[0][2][1] == 0


def test_image_files_that_are_refused(tmp_path: Path) -> None:
    def classify(paths: list[Path]) -> None:
        classify_images(KnownModel(), to_tensor, tokenize, paths, ["red"], ["{}"])

    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(InputError, match=r"whale.png does not exist; did you mean whole.png"):
        classify([tmp_path / "whale.png"])
    for name in ("cut.png", "text.png"):
        with pytest.raises(InputError, match=f"{name} cannot be read as an image") as caught:
            classify([tmp_path / name])
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no image files"):
        classify([])
