"""MC3, multimodal contrastive-consensus coding (SoundingActions, CVPR 2024).

    import mc3

    model = mc3.load("data/mini/checkpoints/mc3-0/final")  # a folder, or a repository of the Hugging Face hub
    model.similarity(video="my_video.mp4", text=["chops an onion", "washes a plate"])

`mc3.losses` is Section 4 of the paper, `mc3.methods` the rows of its tables; the `mc3` command runs each step.
Importing `mc3` itself imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mc3.pretrained import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mc3' has no attribute {name!r}")
    return getattr(import_module("mc3.pretrained"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
