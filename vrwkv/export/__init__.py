"""Backbones and towers as files that run without this package: torch.export, AOTInductor, ONNX."""
