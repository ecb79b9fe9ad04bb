"""Beyond the paper: EPIC-KITCHENS narrations, real recordings, a challenge submission, an explorer of clips."""
