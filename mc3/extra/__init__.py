"""Beyond the paper: published checkpoints, Ego4D's videos, SLURM, EPIC-KITCHENS, real recordings, the explorer."""
