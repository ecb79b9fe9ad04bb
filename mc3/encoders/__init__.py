"""The three encoders: `video`, `audio` and `text`, each a trunk and a projection; `weights` reads those of others."""
