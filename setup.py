"""What pyproject.toml cannot say: the recipes of configs/ travel in the wheel as `vrwkv.configs`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vrwkv*", "rwkv_clip*"]), "vrwkv.configs"],
    package_dir={"vrwkv.configs": "configs"},
    package_data={"vrwkv.configs": ["**/*.yaml"], "rwkv_clip": ["model_configs/*.json"]},
)
