"""The seam between a training step and its device. A plan replaces the device here and nowhere else."""
