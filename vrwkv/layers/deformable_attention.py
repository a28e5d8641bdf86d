"""Deformable attention as a layer: where to look and how much it counts, predicted from the query."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from vrwkv.ops import deform_attn
from vrwkv.ops.argument_checks import check_floating, check_shape
from vrwkv.ops.deform_attn.arguments import check_level_shapes


@register_notrace_module
class DeformableAttention(nn.Module):
    """Each query reads feature maps of several sizes at a few predicted places around its reference point.

    Deformable DETR (arXiv 2010.04159), Eq. 3; parameters as in the published MSDeformAttn, with the narrower values of
    ViT-Adapter (arXiv 2205.08534).

    Args:
        dim: channels of queries, values and result.
        num_heads: heads, each with places and weights of its own.
        num_levels: feature maps.
        num_points: places that a head reads in each feature map.
        ratio: width of the projected values over `dim`.
        backend: backend of the op; by default the best that can run.
        device, dtype: of the parameters.

    Raises:
        ValueError: the heads do not share the projected values evenly, or a count below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_levels: int = 1,
        num_points: int = 4,
        ratio: float = 1.0,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, count in (("num_heads", num_heads), ("num_levels", num_levels), ("num_points", num_points)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, not {count}")
        value_dim = int(dim * ratio)
        if value_dim < 1 or value_dim % num_heads:
            raise ValueError(f"num_heads must divide dim · ratio = {dim} · {ratio} = {value_dim}, not be {num_heads}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_heads, self.num_levels, self.num_points, self.backend = num_heads, num_levels, num_points, backend
        places = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, 2 * places, **factory)
        self.attention_weights = nn.Linear(dim, places, **factory)
        self.value_proj = nn.Linear(dim, value_dim, **factory)
        self.output_proj = nn.Linear(value_dim, dim, **factory)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Published starting values: heads look evenly along rays around the reference point, whatever the query."""
        nn.init.zeros_(self.sampling_offsets.weight)
        # On the CPU whatever the default device: some accelerators have no float64.
        angle = torch.arange(self.num_heads, dtype=torch.float64, device="cpu") * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float64, device="cpu")
        rays = (steps[:, None] * direction[:, None, None]).expand(-1, self.num_levels, -1, -1)
        self.sampling_offsets.bias.copy_(rays.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, reference_points: Tensor, values: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """What the queries find.

        Args:
            query: (B, Q, dim).
            reference_points: (B or 1, Q, levels, 2) where each query stands, as (x, y) in [0, 1] over the level.
            values: (B, ΣHW, dim) feature maps of all levels, one after the other, each in raster order.
            shapes: (height, width) of each level.

        Returns:
            (B, Q, dim). Places and weights are float32 (or float64) also in half precision and under autocast.

        Raises:
            ValueError: a wrong shape, dtype or device; the message names the argument.
        """
        self._check(query, reference_points, values, shapes)
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        offsets = self.sampling_offsets(query)
        compute = torch.promote_types(offsets.dtype, torch.float32)
        offsets = offsets.to(compute).unflatten(-1, (heads, levels, points, 2))
        logits = self.attention_weights(query).unflatten(-1, (heads, levels * points))
        weights = logits.softmax(-1, dtype=compute).unflatten(-1, (levels, points))
        sampled = deform_attn(
            self.value_proj(values).unflatten(-1, (heads, -1)),
            shapes,
            _around(reference_points.to(compute), offsets, shapes),
            weights,
            backend=self.backend,
        )
        return self.output_proj(sampled)

    def _check(
        self, query: Tensor, reference_points: Tensor, values: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> None:
        check_floating(query=query, reference_points=reference_points, values=values)
        dim = self.sampling_offsets.in_features
        check_shape("query", query, (None, None, dim), "(B, Q, dim)")
        check_shape("values", values, (query.shape[0], None, dim), "(B, ΣHW, dim)")
        check_level_shapes(shapes, values.shape[1])
        if len(shapes) != self.num_levels:
            raise ValueError(f"shapes must be those of {self.num_levels} levels, not of {len(shapes)}")
        batch = 1 if reference_points.ndim > 0 and reference_points.shape[0] == 1 else query.shape[0]
        expected = (batch, query.shape[1], self.num_levels, 2)
        check_shape("reference_points", reference_points, expected, "(B or 1, Q, levels, 2)")


def _around(reference_points: Tensor, offsets: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Locations (B, Q, heads, levels, points, 2) in [0, 1]: reference points plus offsets, which are in cells."""
    levels = []
    for level, (height, width) in enumerate(shapes):
        # Plain numbers and no tensor of sizes: exporters would fix it, and accelerators have to wait for it.
        start, reach = reference_points[:, :, None, None, level], offsets[:, :, :, level]
        x, y = start[..., 0] + reach[..., 0] / width, start[..., 1] + reach[..., 1] / height
        levels.append(torch.stack((x, y), -1))
    return torch.stack(levels, 3)
