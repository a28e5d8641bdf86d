"""RWKV-CLIP against values of the released modules: a small text tower with gradients, and B/32 at full size."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import rwkv_clip
from rwkv_clip.published import published_text_names

GOLDENS = Path(__file__).parent.parent / "goldens"
TOLERANCES = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-6, 1e-6)}


def relative_error(computed: Tensor, expected: Tensor) -> float:
    return ((computed.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_text_outputs_and_gradients(dtype: torch.dtype) -> None:
    with safe_open(GOLDENS / "rwkv_clip_text.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    parameters = {key.removeprefix("param/"): value for key, value in tensors.items() if key.startswith("param/")}
    gradients = {key.removeprefix("grad/"): value for key, value in tensors.items() if key.startswith("grad/")}
    tower = rwkv_clip.text_from_published(config, parameters).to(dtype)
    features = tower.forward_features(tensors["input/text"])
    output_tolerance, gradient_tolerance = TOLERANCES[dtype]
    assert relative_error(features, tensors["output/0"]) < output_tolerance
    features.square().mean().backward()
    names = published_text_names(tower)
    own = {names[name]: parameter.grad for name, parameter in tower.named_parameters()}
    assert own.keys() == gradients.keys() == parameters.keys()
    errors = {key: relative_error(own[key].reshape(value.shape), value) for key, value in gradients.items()}
    assert max(errors.values()) < gradient_tolerance, max(errors, key=errors.__getitem__)


def hashed(stream: int, count: int) -> np.ndarray:
    """Pseudo-random 32-bit numbers, functions of `stream` and of the position."""
    value = np.arange(count, dtype=np.uint32)
    value *= np.uint32(2654435761)
    value += np.uint32((stream * 40503 + 12345) % 2**32)
    value ^= value >> np.uint32(15)
    value *= np.uint32(2246822519)
    value ^= value >> np.uint32(13)
    return value


def uniform(stream: int, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 values in [-1, 1)."""
    value = hashed(stream, math.prod(shape)).astype(np.float64)
    value /= 2.0**31
    value -= 1.0
    return value.reshape(shape)


def filled(stream: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """The deterministic value of the published tensor `name`, the `stream`-th in order of names."""
    x, last = uniform(stream, shape), name.rpartition(".")[2]
    if name == "logit_scale":
        value = np.array(math.log(1 / 0.07))
    elif last in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2", "pos_embed", "bias"):
        value = 0.1 * x
    elif last == "time_decay":
        value = -3 + 3 * x
    elif last.startswith(("time_maa_", "spatial_mix_")):
        value = 0.5 + 0.5 * x
    elif last == "weight" and len(shape) == 1:
        value = 1 + 0.1 * x
    elif last == "time_faaaa" or name == "text_model.emb.weight":
        value = 0.5 * x
    else:
        value = x * math.sqrt(3 / math.prod(shape[1:]))
    tensor = torch.from_numpy(np.asarray(value.astype(np.float32)))
    return tensor.bfloat16() if name.startswith("text_model") and last in ("time_decay", "time_faaaa") else tensor


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads((GOLDENS / "rwkv_clip_b32.json").read_text())


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """B/32 holding the deterministic weights, loaded through the published names."""
    with torch.device("meta"):
        model = rwkv_clip.create_model(rwkv_clip.ModelConfig())
    shapes = {name: tuple(tensor.shape) for name, tensor in rwkv_clip.to_published(model).items()}
    assert len(shapes) == 517
    assert sorted(shapes)[343] == "logit_scale"
    state_dict = {f"module.{n}": filled(stream, n, shapes[n]) for stream, n in enumerate(sorted(shapes))}
    model.to_empty(device="cpu")
    rwkv_clip.load_published(model, state_dict)
    return model.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy((2 * uniform(1000, (2, 3, 224, 224))).astype(np.float32))


@pytest.fixture(scope="module")
def texts() -> Tensor:
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[0, :8] = torch.tensor([49406, 320, 1125, 539, 320, 1929, 269, 49407])
    middle = torch.from_numpy((hashed(1001, 75).astype(np.int64)) % 49406)
    ids[1] = torch.cat([torch.tensor([49406]), middle, torch.tensor([49407])])
    assert ids[1, :5].tolist() == [49406, 19721, 40916, 32096, 21182]
    return ids


def record(module: nn.Module, name: str, into: dict[str, Tensor]) -> torch.utils.hooks.RemovableHandle:
    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple) -> None:
        into[name] = output[0] if isinstance(output, tuple) else output

    return module.register_forward_hook(keep)


def assert_intermediates(found: dict[str, Tensor], golden: dict) -> None:
    for name, tensor in found.items():
        expected = golden["reference_fp32_intermediates"][name]
        assert list(tensor.shape) == expected["shape"], name
        assert tensor[0, 0, :4].tolist() == pytest.approx(expected["first4_of_[0,0]"], abs=1e-4), name
        assert tensor[1, -1, -4:].tolist() == pytest.approx(expected["last4_of_[1,-1]"], abs=1e-4), name
        assert tensor.abs().mean().item() == pytest.approx(expected["abs_mean"], abs=1e-4), name


@torch.no_grad()
def test_b32_embeddings_and_intermediates(model: nn.Module, images: Tensor, texts: Tensor, golden: dict) -> None:
    trunk, text, found = model.visual.trunk, model.text, {}
    watched = {
        "patch": trunk.patch_embed,
        "img_l0_att": trunk.blocks[0].spatial_mix,
        "img_l0_ffn": trunk.blocks[0].channel_mix,
        "img_l0": trunk.blocks[0],
        "img_ln1": trunk.norm,
        "txt_b0_att": text.blocks[0].time_mix,
        "txt_b0_ffn": text.blocks[0].channel_mix,
        "txt_b0": text.blocks[0],
        "txt_ln_out": text.norm,
    }
    handles = [record(module, name, found) for name, module in watched.items()]
    image_features, text_features = model.encode_image(images), model.encode_text(texts)
    for handle in handles:
        handle.remove()
    assert found.keys() == golden["reference_fp32_intermediates"].keys()
    assert_intermediates(found, golden)
    expected_images = torch.tensor(golden["image_embedding_before_l2norm"])
    expected_texts = torch.tensor(golden["text_embedding_before_l2norm"])
    assert (image_features - expected_images).abs().max() < 1e-5
    assert (text_features - expected_texts).abs().max() < 1e-5
    assert image_features.norm(dim=1).tolist() == pytest.approx([7.3305918, 7.2013313], abs=1e-5)
    assert text_features.norm(dim=1).tolist() == pytest.approx([0.8418964, 0.2591083], abs=1e-5)
    outputs = model(images, texts)
    cosines = outputs["image_features"] @ outputs["text_features"].T
    torch.testing.assert_close(cosines, torch.tensor(golden["cos"]), atol=1e-5, rtol=0)
    assert outputs["logit_scale"].item() == pytest.approx(1 / 0.07, rel=1e-6)


def test_b32_published_round_trip(model: nn.Module) -> None:
    published = rwkv_clip.to_published(model)
    for stream, name in enumerate(sorted(published)):
        if published[name].numel() < 1_000_000:
            expected = filled(stream, name, tuple(published[name].shape))
            assert torch.equal(published[name], expected.float()), name


def test_tokenizer_gives_the_ids_of_the_first_row(model: nn.Module, texts: Tensor) -> None:
    tokenizer = rwkv_clip.model.tokenizer_of(model)
    assert torch.equal(tokenizer(["a photo of a dog."]), texts[:1])
