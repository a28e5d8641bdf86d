"""The one training loop for every objective: configuration, optimiser, schedule, precision, checkpoints, logs."""
