"""MC3, multimodal contrastive-consensus coding (SoundingActions, CVPR 2024).

`mc3.model.MC3` holds the encoders, `mc3.losses` is Sec. 4, `mc3.methods` the tables' rows; `mc3` runs each step.
"""

__version__ = "0.1.0"
