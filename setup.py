"""What pyproject.toml cannot say: the recipes of configs/ travel in the wheel as `vrwkv.configs`."""

from setuptools import find_packages, setup

RECIPES = {f"vrwkv.configs.{folder}": f"configs/{folder}" for folder in ("classification", "clip", "mae")}

setup(
    packages=[
        *find_packages(include=["vrwkv*", "rwkv_clip*"]),
        "rwkv_clip.model_configs",
        "vrwkv.configs",
        *RECIPES,
    ],
    package_dir={"vrwkv.configs": "configs", **RECIPES},
    package_data={"rwkv_clip.model_configs": ["*.json"], **{folder: ["*.yaml"] for folder in RECIPES}},
)
