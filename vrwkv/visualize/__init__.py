"""Pictures of what a backbone looks at.

Each picture is two functions: one returns tensors, the other draws them. `images` prepares what they look at.
"""

from vrwkv.data.image_file import read_image
from vrwkv.figure import save_figure
from vrwkv.visualize.backbone import build_backbone, load_backbone
from vrwkv.visualize.decay_figure import draw_decay_maps
from vrwkv.visualize.decay_map import DecayMap, decay_distance, decay_map
from vrwkv.visualize.effective_receptive_field import (
    area_share,
    cumulative_share,
    effective_receptive_field,
    sum_is_constant,
)
from vrwkv.visualize.feature_pca import PatchComponents, feature_pca
from vrwkv.visualize.images import model_input, sample_files, square
from vrwkv.visualize.patch_features import features_without_gradient, number_of_blocks, patch_features, patch_size
from vrwkv.visualize.patch_grid import checked_patch, patch_at_pixel
from vrwkv.visualize.pca_figure import draw_feature_pca
from vrwkv.visualize.receptive_field_figure import draw_receptive_fields
from vrwkv.visualize.similarity_figure import draw_token_similarity
from vrwkv.visualize.token_similarity import token_similarity

__all__ = [
    "DecayMap",
    "PatchComponents",
    "area_share",
    "build_backbone",
    "checked_patch",
    "cumulative_share",
    "decay_distance",
    "decay_map",
    "draw_decay_maps",
    "draw_feature_pca",
    "draw_receptive_fields",
    "draw_token_similarity",
    "effective_receptive_field",
    "feature_pca",
    "features_without_gradient",
    "load_backbone",
    "model_input",
    "number_of_blocks",
    "patch_at_pixel",
    "patch_features",
    "patch_size",
    "read_image",
    "sample_files",
    "save_figure",
    "square",
    "sum_is_constant",
    "token_similarity",
]
