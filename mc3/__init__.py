"""MC3, multimodal contrastive-consensus coding (SoundingActions, CVPR 2024).

`mc3.model.MC3` holds the encoders, `mc3.losses` is Section 4 of the paper, `mc3.methods` the rows
of its tables; the `mc3` command runs each step. Importing `mc3` itself imports nothing heavy.
"""

__version__ = "0.1.0"
