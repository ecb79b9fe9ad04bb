"""Settings: one YAML file, read into dataclasses that refuse what they do not know.

`params.yaml`, made by `mc3 profile NAME`, has every setting. None has a default, so the file says what a run used.
"""

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partialmethod
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml

from mc3.errors import ConfigError, suggest
from mc3.files import reading

RENAMED = {"train.chunk": "train.microbatch_size"}  # settings of the last release, for the error message
LONGEST = 200_000  # bytes of a file of settings, of which ours have a tenth
# Between what numbers a setting is, by its name or its group's; others are above 0 and at most `LARGEST`.
LARGEST = 1e30
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("seed", "seeds", "sampling_seed"), (0, 2**63 - 1)),
    **dict.fromkeys(("videos", "silent_videos", "epic_events", "train_clips", "sounding", "before_sec", "after_sec",
                     "consensus_weight", "alpha", "epochs", "learning_rate", "weight_decay", "warmup_steps",
                     "warmup_epochs", "milestones", "factors", "workers"), (0, LARGEST)),
    **dict.fromkeys(("unseen", "heard_unseen", "on_screen", "off_screen", "misnarrated", "momentum"), (0, 1)),
    "dropout": (0, 1),
    "signal_db": (-200, 200), "depth": (1, 1000),
}  # fmt: skip


@dataclass(frozen=True)
class Paths:
    """Folders: `raw`, the data as published; `shards`, the cut clips; `work`, all other outputs."""

    raw: Path
    shards: Path
    work: Path

    def _of(self, form: str, *names: str | int) -> Path:
        return self.work / form.format(*names)

    # Of (method, seed):
    checkpoint = partialmethod(_of, "checkpoints/{}-{}")  # the output of a training: final/ and metrics.jsonl
    final = partialmethod(_of, "checkpoints/{}-{}/final")  # the checkpoint that is evaluated, for `MC3.load`
    run = partialmethod(_of, "runs/{}-{}")  # its other files: states to resume from, best/, TensorBoard, timings
    embeddings = partialmethod(_of, "embeddings/{1}/{0}.safetensors")  # of the validation and test clips
    # Of (step, method, seed): the hash of what a result was made from, beside the results on which nothing depends.
    made = partialmethod(_of, "made/{}/{}-{}")
    # Of (seed): the metrics and class scores of EPIC-Sounds.
    probe_metrics = partialmethod(_of, "probe/{}.json")
    probe_scores = partialmethod(_of, "probe/{}.safetensors")

    @property
    def pretrained(self) -> Path:
        """What every training starts from: MODALITY.safetensors for `init`, and the tokenizer."""
        return self.work / "pretrained"


@dataclass(frozen=True)
class Source:
    """The `mc3` command that makes or checks the raw data, its module and its output."""

    command: str
    code: str
    out: Path

    def __post_init__(self) -> None:
        if self.command.split()[:1] in ([], ["source"], ["repro"], ["retrain"]):
            raise ConfigError(f"source.command is {self.command!r}; it must be a command that makes or checks raw data")


@dataclass(frozen=True)
class Rates:
    """How often the generated world's modalities agree; choices of the profile where the paper has no number."""

    unseen: float  # share of the actions outside region I that are out of view
    heard_unseen: float  # share of those that are audible (region IV)
    on_screen: float  # share of time in which a visible, unnarrated source (TV, machine, tap) sounds (region II)
    off_screen: float  # the same for a source out of view (traffic, speech, another person)
    sounding: float  # multiplies Table 1's sounding rates
    signal_db: float  # added to the actions' level
    misnarrated: float  # share of the training narrations that name another action; those of labelled clips are correct


@dataclass(frozen=True)
class World:
    """The generated world: videos and EPIC-Sounds events per split; the last `silent_videos` of training lack audio."""

    seed: int
    videos: dict[str, int]
    silent_videos: int
    seconds: float
    clip_every_sec: float
    fps: int
    size: int
    epic_events: dict[str, int]
    rates: Rates
    workers: int


@dataclass(frozen=True)
class Ego4DFiles:
    """Ego4D's files, relative to `paths.raw`, and the number of training clips to sample (Sec. 5: 250K)."""

    metadata: Path
    narrations: Path
    verb_taxonomy: Path
    noun_taxonomy: Path
    videos: Path
    labels: dict[str, Path]
    train_clips: int
    sampling_seed: int


@dataclass(frozen=True)
class EpicSoundsFiles:
    """EPIC-Sounds' files, relative to `paths.raw`: CSVs by split (`test` is optional), and HDF5 or an audio folder."""

    annotations: dict[str, Path]
    audio: Path


@dataclass(frozen=True)
class Clips:
    """The extent of a clip (Sec. 5: t - 0.5 s .. t + 1.0 s) and its storage format."""

    before_sec: float
    after_sec: float
    # Of each of `model.video.frames` segments, training takes a frame at random, as EgoVLP, evaluation the middle one.
    frames: int
    frame_size: int  # the height of a stored picture
    max_aspect: float  # width over height of the widest; what exceeds it is cut off on both sides
    jpeg_quality: int
    sample_rate: int
    mel_bins: int
    max_event_sec: float
    clips_per_shard: int
    workers: int

    @property
    def frame_width(self) -> int:
        """Pixels of the widest stored picture, odd if `frame_size` is, so that narrower ones have the same centre."""
        return self.frame_size + 2 * int(self.frame_size * (self.max_aspect - 1) / 2)


@dataclass(frozen=True)
class VideoConfig:
    """Space-time transformer (EgoVLP's frozen-in-time ViT); `frames` and pixels determine the number of tokens."""

    frames: int
    image_size: int
    patch: int
    dim: int
    depth: int
    heads: int


@dataclass(frozen=True)
class AudioConfig:
    """AST; `length` log-mel frames (10 ms each) by `mel_bins`, in squares of `patch` every `stride`."""

    length: int
    mel_bins: int
    patch: int
    stride: int
    dim: int
    depth: int
    heads: int


@dataclass(frozen=True)
class TextConfig:
    """DistilBERT; `tokenizer` is "train" (WordPiece on the training narrations) or a name or folder."""

    tokenizer: str
    vocab_size: int
    max_length: int
    dim: int
    depth: int
    heads: int
    dropout: float


@dataclass(frozen=True)
class ModelConfig:
    """Three encoders and the dimension of their common embeddings."""

    embedding_dim: int
    video: VideoConfig
    audio: AudioConfig
    text: TextConfig


@dataclass(frozen=True)
class Consensus:
    """Eq. 2-3 and its readings; see `mc3.losses.consensus`."""

    anchor: str
    alpha: dict[str, float]
    inverse: str
    stop_gradient: bool
    distance: str


@dataclass(frozen=True)
class ActiveNegatives:
    """CM-ACC: past keys a modality in the pool, those chosen as negatives a direction, momentum of the key encoders."""

    pool: int
    negatives: int
    momentum: float


@dataclass(frozen=True)
class Loss:
    """Temperature of Eq. 1, weight of Eq. 3 beside it, the reading of Eq. 2-3, and the sizes of CM-ACC's loss."""

    temperature: float
    consensus_weight: float
    consensus: Consensus
    active_negatives: ActiveNegatives


@dataclass(frozen=True)
class Train:
    """The trainer (Sec. 4.4); `..._every` in steps."""

    epochs: dict[str, int]  # by stage
    batch_size: int  # over all processes
    microbatch_size: int | None  # clips that a process embeds at once with gradients, null for its share of the batch
    recompute: bool  # the activations inside a transformer block for the backward pass
    freeze: list[str]  # patterns of parameter names ("encoders.video.trunk.blocks.[0-5].*")
    compile: bool
    log_mel: Literal["shards", "device"]  # read, or computed from the sound
    optimizer: Literal["adam", "adamw"]
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    schedule: Literal["constant", "cosine"]
    gradient_clip: float
    # "no" is float32; with "fp64", also when embedding and probing, results do not depend on the processor.
    precision: Literal["no", "bf16", "fp64"]
    stored: Literal["float16", "float32"]  # a finished checkpoint's weights
    crop_scale: list[float]
    flip: bool
    workers: int
    threads: int
    checkpoint_every: int
    log_every: int

    def __post_init__(self) -> None:
        scale = self.crop_scale
        if lost := {"align", "refine"} - self.epochs.keys():
            raise ConfigError(f"missing setting train.epochs.{min(lost)}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(f"train.crop_scale must be two shares of the area, [smallest, largest], not {scale}")

    def length(self, stage: str) -> int:
        """The epochs of a method's stage: those called `stage`, or of "both", align and refine."""
        return sum(self.epochs[name] for name in (("align", "refine") if stage == "both" else (stage,)))


@dataclass(frozen=True)
class Evaluate:
    """Evaluation."""

    recall_at: list[int]  # cut-offs of Table 3
    clusters: int  # of Figure 6
    chunk: int  # rows of a block of the similarity matrix
    batch_size: int


@dataclass(frozen=True)
class ProbeRecipe:
    """One protocol of Table 4."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_epochs: int
    milestones: list[int]
    factors: list[float]


@dataclass(frozen=True)
class Probe:
    """EPIC-Sounds (Sec. 6.3): the input and the protocols of Table 4."""

    features: Literal["ast", "epic_sounds"]  # the encoder's own log-mels, or those of the EPIC-Sounds baselines
    ssast: str | None  # "train": `mc3 train --method ssast`; or a file of converted weights; null leaves the row out
    views: int  # uniform ones, averaged at test time
    linear: ProbeRecipe  # of every method
    official: ProbeRecipe
    official_methods: list[str]  # "untrained" and "ssast" possibly among them, as below
    finetune: ProbeRecipe
    finetune_methods: list[str]


@dataclass(frozen=True)
class Config:
    """A profile."""

    profile: str
    seeds: list[int]
    paths: Paths
    source: Source
    world: World | None  # null for downloaded data
    ego4d: Ego4DFiles
    epic_sounds: EpicSoundsFiles
    clips: Clips
    model: ModelConfig
    # How `init` is made, as overrides of these settings for narrated videos of their own; null for published weights.
    pretrain: dict[str, Any] | None
    init: dict[str, Path | None]  # a modality's file of converted weights, or null for random
    loss: Loss
    train: Train
    evaluate: Evaluate
    probe: Probe

    def __post_init__(self) -> None:
        stored, taken = self.clips.frames, self.model.video.frames
        if stored % taken:
            raise ConfigError(f"clips.frames is {stored}; it must be a multiple of model.video.frames, {taken}")
        if self.clips.max_aspect < 1:
            raise ConfigError(f"clips.max_aspect is {self.clips.max_aspect}; it must be 1 (squares) or more")


def build(cls: type, data: Any, where: str = "") -> Any:
    """Build dataclass `cls` from the mapping at `where`, checking keys and types; `ConfigError` names what is wrong."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where or 'the file'} must be a mapping, not {reprlib.repr(data)}")
    known = get_type_hints(cls)
    prefix = f"{where}." if where else ""
    if unknown := [key for key in data if key not in known]:
        name = f"{prefix}{unknown[0]}"
        hint = suggest(unknown[0], known, f"known: {', '.join(known)}", prefix)
        raise ConfigError(f"unknown setting {name}; {f'it is now {RENAMED[name]}' if name in RENAMED else hint}")
    if missing := [name for name in known if name not in data]:
        raise ConfigError(f"missing setting {prefix}{missing[0]}")
    return cls(**{name: _convert(hint, data[name], prefix + name) for name, hint in known.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or (origin is Literal and value in args):
        return value
    if is_dataclass(hint):
        return build(cast(type, hint), value, where)
    if origin is UnionType:
        return None if value is None else _convert(args[0], value, where)  # all are optional: X | None
    if origin is list and isinstance(value, list):
        return [_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {_convert(args[0], k, where): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint in (int, float) and type(value) in (int, hint):
        return hint(_in_range(value, where))
    if hint is Path and isinstance(value, str):
        if not value or value.startswith("~") or "\0" in value:
            raise ConfigError(f"{where} is {reprlib.repr(value)}; write a path out, from the present folder or from /")
        return Path(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    if origin is Literal:
        raise ConfigError(f"{where} is {reprlib.repr(value)}; it must be one of {', '.join(args)}")
    raise ConfigError(f"{where} must be {hint.__name__ if origin is None else hint}, not {reprlib.repr(value)}")


def _in_range(value: float, where: str) -> float:
    low, high = next((RANGES[name] for name in re.split(r"[.\[]", where) if name in RANGES), (math.ulp(0.0), LARGEST))
    if not low <= value <= high:
        bounds = f"from {low:g} to {high:g}" if low != math.ulp(0.0) else f"above 0 and at most {high:g}"
        raise ConfigError(f"{where} is {reprlib.repr(value)}; it must be {bounds}")
    return value


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, and aliases by which a small file holds any number of values."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > LONGEST:
            raise yaml.MarkedYAMLError(None, None, "its aliases hold each other", node.start_mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.most_common(1):
            if count > 1:
                raise yaml.MarkedYAMLError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for when its aliases are written out; infinite if it is within itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        within = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_values(n, known) for n in within if isinstance(n, yaml.Node))
    return known[id(node)]


def read_yaml(path: Path) -> Any:
    """What a file of settings holds: plain values, each key once. `ConfigError` names the file and the place in it."""
    with reading(path, "correct it", ConfigError):
        if (size := path.stat().st_size) > LONGEST:
            raise ConfigError(f"{path} has {size:,} bytes, but settings have at most {LONGEST:,}; correct it")
        with path.open(encoding="utf-8") as file:
            return yaml.load(file, _Loader)  # noqa: S506, it is a SafeLoader


def load(path: str | Path = "params.yaml") -> Config:
    """Read a profile. Raises `ConfigError` naming the file and the setting at fault."""
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"no settings at {path}; `mc3 profile mini` writes the default ones")
    data = read_yaml(path)
    try:
        return build(Config, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def as_dict(config: Any) -> Any:
    """The plain, JSON-ready form of a dataclass of settings; `build` reads it back."""
    return json.loads(json.dumps(asdict(config), default=str))


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with other values at dotted places, such as "loss.consensus.anchor"; `ConfigError` names a wrong one."""
    data = as_dict(config)
    for name, value in changes.items():
        *groups, key = name.split(".")
        at = data
        for group in groups:
            at = at.setdefault(group, {}) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            raise ConfigError(f"unknown setting {name}")
        at[key] = value
    return build(Config, data)
