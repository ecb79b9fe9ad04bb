"""Objectives: what a stage minimises, the losses of Sec. 4 and those of the baselines.

All kinds but SSAST's sum the same terms, one for either direction of every pair, and differ in the keys that a query is
compared with, and in the weights. Beside Eq. 1, "info_nce", a kind is the file of its name in this folder, with a
subclass of `Objective`. Files are imported when a method asks for them, so that a new one trains no other method again.
"""

from importlib import import_module
from pkgutil import iter_modules

from mc3.config import Config
from mc3.errors import ConfigError
from mc3.methods import Method, Stage
from mc3.model import MC3
from mc3.objectives.base import KINDS, Batch, Objective

__all__ = ["Batch", "Objective", "check", "find", "kinds", "make", "modules"]


def find(name: str) -> type[Objective] | None:
    """The kind of loss called `name`, whose file is imported if need be; None if there is none."""
    if name in {module.name for module in iter_modules(__path__)}:
        import_module(f"{__name__}.{name}")
    return KINDS.get(name)


def kinds() -> dict[str, type[Objective]]:
    """All kinds of loss by name."""
    for module in iter_modules(__path__):
        find(module.name)
    return KINDS


def modules(method: Method) -> list[str]:
    """The modules that hold the losses of a method, sorted."""
    return sorted({kind.__module__ for stage in method.stages if (kind := find(stage.loss))})


def check(method: Method) -> None:
    """Raise `ConfigError` if a stage's loss is unknown, lacks a setting, or cannot work in that stage."""
    for stage in method.stages:
        loss = {"kind": stage.loss, **stage.settings}
        kind = find(stage.loss)
        if kind is None or kind.takes != set(stage.settings):
            takes = "; ".join(f"{name} takes {', '.join(sorted(k.takes)) or 'nothing'}" for name, k in kinds().items())
            raise ConfigError(f"method {method.name!r} in mc3/methods.py has the loss {loss}; {takes}")
        if fault := kind.fault(stage):
            raise ConfigError(f'method {method.name!r} in mc3/methods.py has the loss "{stage.loss}", which {fault}')


def make(config: Config, stage: Stage, model: MC3, clips: int, seed: int) -> Objective:
    """The initial objective, in the model's precision, of a stage that begins with `model` and has `clips` clips."""
    kind = find(stage.loss)
    assert kind is not None, f"`check` refuses {stage.loss}"
    objective = kind(config, stage)
    objective.prepare(model, clips, seed)
    return objective.to(next(model.parameters()).dtype)
