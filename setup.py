"""What pyproject.toml cannot say: the recipes of configs/ travel in the wheel as `vrwkv.configs`."""

from setuptools import find_packages, setup

DATA = ["rwkv_clip.model_configs", "vrwkv.configs", "vrwkv.configs.clip"]

setup(
    packages=[
        *find_packages(include=["vrwkv*", "rwkv_clip*"]),
        "rwkv_clip.model_configs",
        "vrwkv.configs",
        "vrwkv.configs.clip",
    ],
    package_dir={"vrwkv.configs": "configs", "vrwkv.configs.clip": "configs/clip"},
    package_data={"vrwkv.configs.clip": ["*.yaml"], "rwkv_clip.model_configs": ["*.json"]},
)
