"""Objectives: what a stage minimises, the losses of Sec. 4 and those of the baselines.

All kinds but SSAST's sum the same terms, one for either direction of every pair, and differ in the keys that a query is
compared with, and in the weights. To add a kind, write a file with a subclass of `Objective` and import it here.
"""

from mc3.config import Config
from mc3.errors import ConfigError
from mc3.methods import Method, Stage
from mc3.model import MC3
from mc3.objectives import active_negatives, agreement, learnt_scale, masked_patches  # noqa: F401
from mc3.objectives.base import KINDS, Batch, Objective

__all__ = ["KINDS", "Batch", "Objective", "check", "make"]


def check(method: Method) -> None:
    """Raise `ConfigError` if a stage's loss is unknown, lacks a setting, or cannot work in that stage."""
    for stage in method.stages:
        loss = {"kind": stage.loss, **stage.settings}
        kind = KINDS.get(stage.loss)
        if kind is None or kind.takes != set(stage.settings):
            takes = "; ".join(f"{name} takes {', '.join(sorted(k.takes)) or 'nothing'}" for name, k in KINDS.items())
            raise ConfigError(f"method {method.name!r} in mc3/methods.py has the loss {loss}; {takes}")
        if fault := kind.fault(stage):
            raise ConfigError(f'method {method.name!r} in mc3/methods.py has the loss "{stage.loss}", which {fault}')


def make(config: Config, stage: Stage, model: MC3, clips: int, seed: int) -> Objective:
    """The initial objective, in the model's precision, of a stage that begins with `model` and has `clips` clips."""
    objective = KINDS[stage.loss](config, stage)
    objective.prepare(model, clips, seed)
    return objective.to(next(model.parameters()).dtype)
