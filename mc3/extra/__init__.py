"""Beyond the paper: Ego4D's videos on disk, SLURM, EPIC-KITCHENS narrations, real recordings, the explorer."""
