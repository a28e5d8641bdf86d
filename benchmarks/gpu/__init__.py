"""The parts of `python benchmarks/gpu.py`: what to run, whether it is right, how long it takes, and the tables."""
