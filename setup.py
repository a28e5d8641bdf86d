"""What pyproject.toml cannot say: the recipes of configs/ travel in the wheel as `vrwkv.configs`."""

from setuptools import find_packages, setup

FOLDERS = ("classification", "clip", "detection", "mae", "segmentation", "segmentation/_base_")
RECIPES = {f"vrwkv.configs.{folder.replace('/', '.')}": f"configs/{folder}" for folder in FOLDERS}

setup(
    packages=[
        *find_packages(include=["vrwkv*", "rwkv_clip*"]),
        "rwkv_clip.model_configs",
        "vrwkv.configs",
        *RECIPES,
    ],
    package_dir={"vrwkv.configs": "configs", **RECIPES},
    package_data={"rwkv_clip.model_configs": ["*.json"], **{folder: ["*.yaml", "*.py"] for folder in RECIPES}},
)
