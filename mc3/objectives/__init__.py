"""Objectives: what a stage minimises, the losses of Sec. 4 and those of the baselines.

All kinds of loss sum the same terms, one for either direction of every pair, in which modality i is the query, j the
key. They differ in the keys that a query is compared with, and in the weights. To add a kind, write a file with a
subclass of `Objective` and import it here: one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mc3.config import Config
from mc3.errors import ConfigError
from mc3.methods import Method, Stage
from mc3.objectives.active_negatives import ActiveNegatives as ActiveNegatives
from mc3.objectives.base import KINDS, Batch, Objective
from mc3.objectives.learnt_scale import LearntScale as LearntScale
from mc3.objectives.memory_bank import MemoryBank as MemoryBank
from mc3.objectives.peers import Peers as Peers
from mc3.objectives.relative import Relative as Relative

if TYPE_CHECKING:
    from mc3.model import MC3

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
    """The objective of a stage at its first step.

    Args:
        config: temperature, weight and reading of the consensus.
        stage: its pairs, weights and kind of loss, which `check` has accepted.
        model: in the state in which the stage begins.
        clips: the number of training clips.
        seed: of the stage.
    """
    objective = KINDS[stage.loss](config, stage)
    objective.prepare(model, clips, seed)
    return objective
