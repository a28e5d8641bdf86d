import pytest
import torch
import torch.nn.functional as F

from vrwkv.layers import PatchEmbed


def convolved(embed: PatchEmbed, x: torch.Tensor) -> torch.Tensor:
    height, width = embed.patch_size
    return embed.proj(F.pad(x, (0, -x.shape[3] % width, 0, -x.shape[2] % height))).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("size", "patch", "grid"),
    [
        ((32, 32), 8, (4, 4)),
        ((33, 47), 8, (5, 6)),
        ((8, 9), 8, (1, 2)),
        ((8, 30), (4, 10), (2, 3)),
        ((225, 230), 16, (15, 15)),
    ],
)
def test_equals_the_convolution_of_the_padded_image(
    size: tuple[int, int], patch: int | tuple[int, int], grid: tuple[int, int]
) -> None:
    embed = PatchEmbed(32, patch, 3, 12).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    tokens, found = embed(x)
    assert found == grid == embed.dynamic_feat_size(size)
    torch.testing.assert_close(tokens, convolved(embed, x))


def test_zeros_are_added_at_the_right_and_bottom() -> None:
    embed = PatchEmbed(4, 2, 1, 1)
    torch.nn.init.ones_(embed.proj.weight)
    torch.nn.init.zeros_(embed.proj.bias)
    tokens, grid = embed(torch.ones(1, 1, 3, 3))
    assert grid == (2, 2)
    assert tokens.flatten().tolist() == [4, 2, 2, 1]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, H, W\)"):
        PatchEmbed(8, 4)(torch.zeros(shape))


@pytest.mark.parametrize("size", [(7, 8), (8, 3), (0, 8), (1, 1)])
def test_an_image_smaller_than_a_patch_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"at least one patch of 8 × 4 .* not {size[0]} × {size[1]}$"):
        PatchEmbed((16, 16), (8, 4))(torch.zeros(1, 3, *size))


def test_grid_and_ratio() -> None:
    embed = PatchEmbed((30, 64), (8, 16), 3, 4)
    assert embed.grid_size == (4, 4)
    assert embed.num_patches == 16
    assert embed.feat_ratio() == 16
    assert embed.feat_ratio(as_scalar=False) == (8, 16)


def test_whole_patches_are_not_copied_to_be_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    padded: list[torch.Size] = []
    pad = F.pad
    monkeypatch.setattr(F, "pad", lambda x, *rest: padded.append(x.shape) or pad(x, *rest))
    embed = PatchEmbed(patch_size=8, embed_dim=16)
    whole = torch.randn(1, 3, 16, 24)
    copied = whole.clone()
    tokens, grid = embed(whole)
    assert grid == (2, 3)
    assert not padded
    assert torch.equal(whole, copied)
    cut = whole[:, :, :15, :23]
    assert embed(cut)[1] == (2, 3)
    assert padded == [(1, 3, 15, 23)]
    torch.testing.assert_close(embed(F.pad(cut, (0, 1, 0, 1)))[0], embed(cut)[0])
    torch.testing.assert_close(tokens[:, :2], embed(cut)[0][:, :2])
