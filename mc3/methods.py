"""The rows of Tables 2 and 3 as data: what each method trains on, in which order, from which weights.

To add a method, add one entry to `METHODS`. Entries are plain literals because DVC reads them too: changing one entry
retrains that method only. Keys of an entry
    label   its name in tables
    paper   its row in data/paper/*.csv, or "" when the paper has none
    role    optional: "reference" (the row that all others are compared with), "control" (the reference less its
            consensus loss) or "proposal" (not the paper's), which are measured by region in Figures 2 and 3; or
            "later": published after the paper; beside its rows, in no rank or claim, not probed and not in Figures 2
            and 3
    start   "init" (the initial weights of the seed, those of the profile's `init` included), "random" (the same
            without them) or "align" (the shared align checkpoint)
    stages  the stages of its training in order, each with
        epochs       "align", "refine" (the profile's `train.epochs`) or "both", their sum; `PRETRAIN` has its own
        pairs        modality pairs under the contrastive loss, Eq. 1 in both directions; "all" is every pair, [] none
        contrastive  weight of the contrastive loss (1)
        consensus    weight of the consensus loss, Eq. 3, in units of the profile's `loss.consensus_weight` (0)
        temperature  its own temperature, where the method's paper fixes one (the profile's)
        rate         its own share of the profile's `train.learning_rate` (1)
        train        modalities whose encoders learn; the others are frozen (those in `pairs`)
        loss         the kind of loss and its settings (`mc3.objectives`; {"kind": "info_nce"})
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from typing import Any

from mc3.errors import ConfigError

MODALITIES = ("audio", "video", "text")

PRETRAIN: dict[str, Any] = {"label": "pretraining", "start": "init",
                            "stages": [{"epochs": "pretrain", "pairs": ["video-text"]}]}  # fmt: skip
ALIGN: dict[str, Any] = {"label": "align stage", "start": "init", "stages": [{"epochs": "align", "pairs": "all"}]}

# SSAST's 400 of 512 patches; always from random weights, as in its code. Only Table 4 has this row. At its full rate
# rounding grows until it reaches the weights (LOG.md).
SSAST: dict[str, Any] = {"label": "SSAST", "paper": "SSAST", "start": "random",
                         "stages": [{"epochs": "both", "pairs": [], "train": ["audio"], "rate": 0.1,
                                     "loss": {"kind": "masked_patches", "share": 0.78125}}]}  # fmt: skip

METHODS: dict[str, dict[str, Any]] = {
    "clap": {"label": "CLAP", "paper": "CLAP", "start": "init",
             "stages": [{"epochs": "both", "pairs": ["audio-text"], "contrastive": 0.5, "temperature": 0.07,
                         "loss": {"kind": "learnt_scale", "highest": 100.0}}]},
    "cm_acc": {"label": "CM-ACC", "paper": "CM-ACC", "start": "init",
               "stages": [{"epochs": "both", "pairs": ["audio-video"], "temperature": 0.7,
                           "loss": {"kind": "active_negatives"}}]},
    "cmc": {"label": "CMC", "paper": "CMC", "start": "init",
            "stages": [{"epochs": "both", "pairs": "all", "temperature": 0.07}]},
    "imagebind": {"label": "ImageBind", "paper": "ImageBind", "start": "init",
                  "stages": [{"epochs": "align", "pairs": ["video-text"]},
                             {"epochs": "refine", "pairs": ["audio-video"], "train": ["audio"], "temperature": 0.05}]},
    "wo_consensus": {"label": "w/o consensus", "paper": "w/o consensus", "role": "control", "start": "align",
                     "stages": [{"epochs": "refine", "pairs": "all"}]},
    "wo_contrastive": {"label": "w/o contrastive", "paper": "w/o contrastive", "start": "align",
                       "stages": [{"epochs": "refine", "pairs": "all", "contrastive": 0.0, "consensus": 1.0}]},
    "wo_align": {"label": "w/o align-stage", "paper": "w/o align-stage", "start": "init",
                 "stages": [{"epochs": "both", "pairs": "all", "consensus": 1.0}]},
    "mc3": {"label": "MC3", "paper": "MC3", "role": "reference", "start": "align",
            "stages": [{"epochs": "refine", "pairs": "all", "consensus": 1.0}]},
    "peers": {"label": "Peers (not the paper's)", "paper": "", "role": "proposal", "start": "align",
              "stages": [{"epochs": "refine", "pairs": "all", "loss": {"kind": "peers", "trust": "retrieval"}}]},
    "gram": {"label": "GRAM", "paper": "", "role": "later", "start": "align",
             "stages": [{"epochs": "refine", "pairs": "all",
                         "loss": {"kind": "gram", "anchor": "text", "smoothing": 0.1}}]},
    "triangle": {"label": "TRIANGLE", "paper": "", "role": "later", "start": "align",
                 "stages": [{"epochs": "refine", "pairs": "all",
                             "loss": {"kind": "triangle", "anchor": "text", "smoothing": 0.1}}]},
    "symile": {"label": "Symile", "paper": "", "role": "later", "start": "align",
               "stages": [{"epochs": "refine", "pairs": "all", "loss": {"kind": "symile", "highest": 100.0}}]},
    "third_party": {"label": "Third-party consensus", "paper": "", "role": "later", "start": "align",
                    "stages": [{"epochs": "refine", "pairs": "all", "contrastive": 0.3333333333333333,
                                "consensus": 0.5, "temperature": 0.2, "loss": {"kind": "third_party"}}]},
}  # fmt: skip

OTHERS: dict[str, dict[str, Any]] = {  # recipes that `mc3 train` knows but no table has
    "peers_equal": {"label": "Peers, trusted equally", "start": "align",
                    "stages": [{"epochs": "refine", "pairs": "all", "loss": {"kind": "peers", "trust": "equal"}}]},
    "peers_consensus": {"label": "Peers and Eq. 3", "start": "align",
                        "stages": [{"epochs": "refine", "pairs": "all", "consensus": 1.0,
                                    "loss": {"kind": "peers", "trust": "retrieval"}}]},
    "gram_audio": {"label": "GRAM, anchor audio", "start": "align",
                   "stages": [{"epochs": "refine", "pairs": "all",
                               "loss": {"kind": "gram", "anchor": "audio", "smoothing": 0.1}}]},
    "triangle_audio": {"label": "TRIANGLE, anchor audio", "start": "align",
                       "stages": [{"epochs": "refine", "pairs": "all",
                                   "loss": {"kind": "triangle", "anchor": "audio", "smoothing": 0.1}}]},
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage of training; the module's docstring describes its keys."""

    epochs: str
    pairs: tuple[tuple[str, str], ...]
    contrastive: float = 1.0
    consensus: float = 0.0
    temperature: float | None = None
    rate: float = 1.0
    train: tuple[str, ...] = ()
    loss: str = "info_nce"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that this stage's losses need."""
        if self.consensus:
            return MODALITIES
        return tuple(m for m in MODALITIES if m in self.train or any(m in pair for pair in self.pairs))


@dataclass(frozen=True)
class Method:
    """A recipe: its initial weights and its stages."""

    name: str
    label: str
    paper: str
    start: str
    stages: tuple[Stage, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the finished method can embed: those of any stage."""
        return tuple(m for m in MODALITIES if any(m in s.modalities for s in self.stages))


def get(name: str) -> Method:
    """The recipe called `name`; `ConfigError` if there is none, or it has a wrong key or modality."""
    entries = {"pretrain": PRETRAIN, "align": ALIGN, "ssast": SSAST, **METHODS, **OTHERS}
    if name not in entries:
        raise ConfigError(f"no method {name!r} in mc3/methods.py; known: {', '.join(entries)}")
    entry = entries[name]
    stages = tuple(_stage(name, stage) for stage in entry["stages"])
    return Method(name, entry["label"], entry.get("paper", ""), entry["start"], stages)


def with_role(role: str) -> str:
    """Name of the row of `METHODS` that has this role, the first if several have it, or ""."""
    return next((name for name, entry in METHODS.items() if entry.get("role") == role), "")


def _stage(method: str, entry: dict[str, Any]) -> Stage:
    known, where = {f.name for f in fields(Stage)} - {"settings"}, f"method {method!r} in mc3/methods.py"
    if unknown := sorted(set(entry) - known):
        raise ConfigError(f"{where} has an unknown key {unknown[0]!r}; known: {sorted(known)}")
    pairs = tuple(combinations(MODALITIES, 2))
    if entry["pairs"] != "all":
        pairs = tuple((a, b) for a, b in (pair.split("-") for pair in entry["pairs"]))
    for modality in {m for pair in pairs for m in pair} | set(entry.get("train", ())):
        if modality not in MODALITIES:
            raise ConfigError(f"{where} names {modality!r}; modalities are {MODALITIES}")
    settings = dict(entry.get("loss", {"kind": "info_nce"}))
    stage = Stage(**entry | {"pairs": pairs, "loss": settings.pop("kind", None), "settings": settings})
    return replace(stage, train=tuple(entry.get("train", stage.modalities)))
