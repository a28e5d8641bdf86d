"""What backbones are trained for."""
