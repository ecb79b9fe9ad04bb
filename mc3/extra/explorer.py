"""The explorer of notebooks/explore.ipynb: linked maps of embedded clips, drawn in the browser, computed on demand.

The browser sends questions (`Explorer.answer` lists them) and gets JSON and binary buffers, so the notebook stays small
and opens at once. `mc3.extra.explore_html` answers the same questions beforehand, for a page without a kernel.
"""

import io
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import permutations
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from numpy.typing import NDArray
from PIL import Image
from scipy.io import wavfile
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.data.cutting import mp4_of
from mc3.data.shards import ClipDataset
from mc3.errors import ConfigError, UserError
from mc3.paper import findings, priors, tables

TOGETHER = "together"  # all modalities of a checkpoint in one map
PROJECTIONS = ("tsne", "pca", "umap")
QUICK = 4000  # points of which t-SNE takes seconds; it is the default up to here, and PCA beyond
COLOURED = 19  # groups with a colour of their own; the rest are "other"
FIELDS = ("verb", "noun", "label", "region", "split")  # of a clip, whatever the checkpoint
NEIGHBOURS = 3  # that are shown of each pair of modalities

Answer = tuple[dict[str, Any], list[bytes]]
Floats = NDArray[np.float32]


class Explorer(anywidget.AnyWidget):
    """Maps of the validation and test clips as embedded by `method` of `seed`, and beside it by `compare`.

    `method` is any row of Tables 2 and 3 or "align"; `modality` audio, video, text or "together" (default: video if
    there is one); `projection` pca, tsne or umap (default: t-SNE, which takes seconds, up to `QUICK` clips, else PCA).
    `sample` restricts map and neighbours to rows of `findings.clips`; projections and percentiles are of all clips.

    `selected` is a DataFrame of the clips that are selected in the browser; `observe(function, "selected")` follows it.
    Raises `ConfigError` if there is no such projection or modality, `DataError` if there are no embeddings.
    """

    _esm = Path(__file__).with_name("explorer.js")
    _css = Path(__file__).with_name("explorer.css")
    setup = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    selection = traitlets.List(traitlets.Int()).tag(sync=True)  # rows of `index`
    selected = traitlets.Instance(pd.DataFrame)

    def __init__(
        self, config: Config, method: str, seed: int, modality: str = "", projection: str = "",
        compare: str = "", sample: Sequence[int] | NDArray[np.integer] | None = None,
    ):  # fmt: skip
        self.config = config
        self.clips = ClipDataset(config.paths.shards, split=findings.SPLITS, modalities=("audio", "video"))
        every = findings.clips(config)
        self.rows = np.arange(len(every)) if sample is None else np.asarray(sample)
        self.index = every.iloc[self.rows].reset_index(drop=True).assign(row=self.rows)
        self.index = self.index.drop(columns=self.index.filter(regex="^(shard|sha256)$|_offset$|_size$").columns)
        sounds = self.index["positive"].map({1: "sounds", 0: "does not sound"}).astype(object).fillna("not labelled")
        short = {name: self.index[name].map(priors.short).replace("", f"no {name}") for name in ("verb", "noun")}
        self.groups = {**short, "label": sounds, "region": self.index["region"], "split": self.index["split"]}
        self.embedded = lru_cache(8)(partial(store.embeddings, config))
        self.places, self.cosines = lru_cache(64)(self._places), lru_cache(64)(self._cosines)
        self.cluster, self.clip = lru_cache(64)(self._cluster), lru_cache(64)(self._clip)
        self.known = self._known(*filter(None, (method, compare)))
        projection = projection or ("tsne" if len(every) <= QUICK else "pca")
        modality = modality or self._shared(method, compare or method)
        for name in filter(None, (method, compare)):
            self._check(name, seed, modality, projection)
        view = {"method": method, "compare": compare, "seed": seed, "modality": modality, "projection": projection}
        setup = {"text": self.index["text"].tolist(), "of": len(every), "fields": FIELDS, "projections": PROJECTIONS,
                 "checkpoints": list(self.known.values())}  # fmt: skip
        super().__init__(setup=setup, view={**view, "colour": "verb"}, selected=self.index[:0])
        self.on_msg(self._receive)

    def neighbours(self, row: int, k: int = NEIGHBOURS, method: str = "", seed: int | None = None) -> pd.DataFrame:
        """The `k` other clips nearest to clip `row`, from each of its modalities to each other modality.

        Columns: pair ("video → audio"), rank, row, similarity, same_group (of actions), clip_id, text, and own: the
        rank of the clip's own embedding among all, 1 if retrieval succeeds. By default of the first checkpoint shown.
        """
        tensors = self.embedded(method or self.view["method"], self.view["seed"] if seed is None else seed)
        group, found = self.index.at[row, "action_group"], []
        for source, target in permutations(tensors, 2):
            similarity = tensors[target][self.rows] @ tensors[source][self.rows[row]]
            if not np.isfinite(similarity[row]):
                continue  # a foreign row may lack clips
            ordered = np.nan_to_num(similarity, nan=-np.inf)
            own, ordered[row] = int(np.sum(ordered >= similarity[row])), -np.inf
            near = np.argsort(-ordered, kind="stable")[: min(k, int(np.isfinite(ordered).sum()))]
            about = self.index.loc[near, ["action_group", "clip_id", "text"]].reset_index(drop=True)
            same = (about.pop("action_group") == group) & (group != "")
            ranked = {"rank": np.arange(1, len(near) + 1), "row": near, "similarity": similarity[near].astype(float)}
            table = pd.DataFrame({"pair": f"{source} → {target}", **ranked, "same_group": same})
            found.append(table.join(about).assign(own=own))
        return pd.concat(found or [pd.DataFrame(columns=["pair", "rank", "row"])], ignore_index=True)

    def map(self, colour: str = "verb") -> pd.DataFrame:
        """The first map's points, for `mc3.paper.plots.scatter`, which draws them without a widget: x, y, group."""
        view = self.view
        places = self.places(view["method"], view["seed"], view["modality"], view["projection"])
        names, codes = _coded(self._field(colour, view["method"], view["seed"], view["modality"]))
        xy = np.concatenate([place[self.rows] for place in places.values()])
        return pd.DataFrame(xy, columns=["x", "y"]).assign(group=np.tile(np.take(names, codes), len(places)))

    @property
    def title(self) -> str:
        """The first map's checkpoint, seed, modality and projection in words."""
        view = self.view
        label = tables.label(view["method"])
        return f"{label}, seed {view['seed']}: {view['modality']} embeddings by {view['projection'].upper()}"

    def answer(self, ask: Any) -> Answer:
        """The answer to a question of the browser; `UserError` if it makes no sense.

        Rows are those of `index`, xy and codes in its order, one modality after another:
        - map: places by a projection, turned onto those of checkpoint `onto` unless it is "": modalities; float32 xy.
        - field: what points are coloured by: names and uint8 codes, or float32 scores.
        - about: a clip's similarities and neighbours in one checkpoint.
        - clip, frame: a clip's facts and media; its middle picture alone.
        """
        match ask:
            case {"kind": "map", "method": str(method), "seed": int(seed), "modality": str(modality),
                  "projection": str(projection), "onto": str(onto)}:  # fmt: skip
                for name in filter(None, (method, onto)):
                    self._check(name, seed, modality, projection)
                places = self.places(method, seed, modality, projection)
                if onto:
                    places = turn_onto(places, self.places(onto, seed, modality, projection))
                xy = np.concatenate([place[self.rows] for place in places.values()])
                return {"label": tables.label(method), "modalities": list(places)}, [xy.tobytes()]
            case {"kind": "field", "field": str(field), "method": str(method), "seed": int(seed), "modality": str(m)}:
                if field not in FIELDS:
                    self._check(method, seed, m, "pca")
                values = self._field(field, method, seed, m)
                if values.dtype.kind == "f":
                    return {}, [values.to_numpy(dtype=np.float32).tobytes()]
                names, codes = _coded(values)
                return {"names": names}, [codes.tobytes()]
            case {"kind": "about", "row": int(row), "method": str(method), "seed": int(seed)}:
                self._check(method, seed, TOGETHER, "pca")
                return self._about(self._row(row), method, seed), []
            case {"kind": "clip", "row": int(row)}:
                return self.clip(self._row(row))
            case {"kind": "frame", "row": int(row)}:
                frames = self.clips.frames(int(self.rows[self._row(row)]))
                return {"media": {"frame": 0}}, [_jpeg(frames[len(frames) // 2], 80)]
        raise ConfigError(f"no answer to {str(ask)[:100]!r}")

    def _receive(self, _: Any, ask: Any, buffers: Any) -> None:
        """Answer a message of the browser; an error is sent to it and raises nothing in the kernel."""
        try:
            content, data = self.answer(ask)
        except (UserError, OSError, ValueError) as error:  # also: a shard was moved or rewritten meanwhile
            content, data = {"error": str(error)}, []
        self.send({**content, "ask": ask}, data)

    @traitlets.observe("selection")
    def _select(self, change: Any) -> None:
        rows = [row for row in change["new"] if 0 <= row < len(self.index)]
        self.selected = self.index.loc[rows]

    def _known(self, *named: str) -> dict[str, dict[str, Any]]:
        """The checkpoints with embeddings (and those `named`): name -> name, label, modalities, seeds."""
        known = {}
        for name in dict.fromkeys(("align", *store.rows(self.config), *named)):
            files = zip(store.seeds(self.config, name), store.embedding_files(self.config, [name]), strict=True)
            if (seeds := [seed for seed, file in files if file.exists()]) or name in named:
                found = store.modalities(self.config, name)
                known[name] = {"name": name, "label": tables.label(name), "modalities": found, "seeds": seeds}
        return known

    def _shared(self, *names: str) -> str:
        """The modality that a map begins with: video, or else another that the checkpoints have, or else together."""
        order = (
            m for m in ("video", *methods.MODALITIES) if all(m in self.known[name]["modalities"] for name in names)
        )
        return next(order, TOGETHER)

    def _check(self, method: str, seed: int, modality: str, projection: str) -> None:
        if method not in self.known:
            raise ConfigError(f"no embeddings of {method!r}; there are those of {', '.join(self.known)}")
        found = self.embedded(method, seed)
        if modality not in (*found, TOGETHER):
            raise ConfigError(f"no {modality} embeddings here; {method} has {', '.join(found)} and {TOGETHER}")
        if projection not in PROJECTIONS:
            raise ConfigError(f"projection must be one of {', '.join(PROJECTIONS)}, not {projection!r}")

    def _row(self, row: int) -> int:
        if isinstance(row, bool) or not 0 <= row < len(self.index):
            raise ConfigError(f"no clip {row!r}; there are {len(self.index)}")
        return row

    def _places(self, method: str, seed: int, modality: str, projection: str) -> dict[str, Floats]:
        """Modality -> places [N, 2] of all clips; of several modalities, projected as one cloud."""
        found = self.embedded(method, seed)
        chosen = [m for m in methods.MODALITIES if m in found and modality in (m, TOGETHER)]
        flat = project(np.concatenate([found[m] for m in chosen]), projection)
        return dict(zip(chosen, np.split(flat, len(chosen)), strict=True))

    def _cosines(self, method: str, seed: int) -> pd.DataFrame:
        """The similarities av, al and vl of all clips, where the checkpoint has both modalities."""
        found = self.embedded(method, seed)
        pairs = {p: (a, b) for p, (a, b) in evaluate.PAIRS.items() if a in found and b in found}
        return pd.DataFrame({p: evaluate.similarity(found[a], found[b]) for p, (a, b) in pairs.items()})

    def _cluster(self, method: str, seed: int, modality: str) -> NDArray[np.intp]:
        """Each clip's cluster, 0 the largest; of "together", of the video if there is one. -1 without an embedding."""
        found = self.embedded(method, seed)
        points = found.get(modality, found.get("video", next(iter(found.values()))))
        known, labels = np.isfinite(points).all(axis=1), np.full(len(points), -1)
        labels[known] = evaluate.clusters(points[known], min(self.config.evaluate.clusters, int(known.sum())))
        return labels

    def _field(self, name: str, method: str, seed: int, modality: str) -> pd.Series:
        if name in FIELDS:
            return self.groups[name]
        if name == "cluster":
            labels = pd.Series(self.cluster(method, seed, modality)[self.rows])
            return labels.map(lambda label: f"cluster {label + 1}" if label >= 0 else "no embedding")
        if name not in (scores := self.cosines(method, seed)):
            raise ConfigError(
                f"{tables.label(method)} has no {name}; it has {', '.join(('cluster', *scores, *FIELDS))}"
            )
        return scores[name].iloc[self.rows]

    def _about(self, row: int, method: str, seed: int) -> dict[str, Any]:
        scores, place = self.cosines(method, seed), self.rows[row]
        percent = 100 * scores.rank(pct=True, method="max").iloc[place]
        own = scores.iloc[place].dropna()
        pairs = [{"pair": "–".join(evaluate.PAIRS[p]), "cosine": own[p], "percent": percent[p]} for p in own.index]
        found = self.neighbours(row, method=method, seed=seed)
        near = [
            {"pair": pair, "own": int(part["own"].iloc[0]), "rows": part["row"].tolist(),
             "cosines": part["similarity"].round(4).tolist(), "same": part["same_group"].tolist()}
            for pair, part in found.groupby("pair", sort=False)
        ]  # fmt: skip
        return {"label": tables.label(method), "scores": pairs, "neighbours": near}

    def _clip(self, row: int) -> Answer:
        """Facts, and the clip as MP4 if the raw video exists, else stored pictures (below each other) and sound."""
        about, place = self.index.loc[row], int(self.rows[row])
        raw = self.config.paths.raw / about["path"]
        words = [about["clip_id"], about["split"], self.groups["label"][row], f"region {about['region']}"]
        facts = " · ".join([*words, f"{self.groups['verb'][row]} / {self.groups['noun'][row]}"])
        if raw.exists():
            return {"facts": facts, "media": {"video": 0}}, [mp4_of(raw, about["start_sec"], about["end_sec"])]
        frames, (samples, rate) = self.clips.frames(place), self.clips.waveform(place)
        content = {"facts": facts, "media": {"strip": 0}, "frames": len(frames), "seconds": len(samples) / rate or 1.5}
        if not len(samples):
            return content, [_jpeg(frames, 90)]
        sound = io.BytesIO()
        wavfile.write(sound, rate, samples)
        return content | {"media": {"strip": 0, "sound": 1}}, [_jpeg(frames, 90), sound.getvalue()]


def project(embeddings: NDArray[np.float32], projection: str, seed: int = 0) -> Floats:
    """Embeddings [N, D] in two dimensions, [N, 2], centred, with a root mean square distance of 1 from the centre.

    By PCA, t-SNE (scikit-learn) or UMAP (umap-learn); the same for the same input. A row that is NaN stays so.
    """
    known = np.isfinite(embeddings).all(axis=1)
    points, flat = embeddings[known], np.full((len(embeddings), 2), np.nan, np.float32)
    if projection == "pca":
        found = PCA(2, svd_solver="covariance_eigh").fit_transform(points.astype(np.float64))
    elif projection == "tsne":
        perplexity = min(30.0, (len(points) - 1) / 3)
        found = TSNE(2, init="pca", perplexity=perplexity, random_state=seed, max_iter=500, angle=0.7).fit_transform(
            points
        )
    elif projection == "umap":
        try:
            from umap import UMAP
        except ImportError:
            raise ConfigError("projection umap needs umap-learn; install it with `pip install umap-learn`") from None
        found = UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(points)
    else:
        raise ConfigError(f"projection must be one of {', '.join(PROJECTIONS)}, not {projection!r}")
    centred = found - found.mean(axis=0)
    flat[known] = centred / max(np.sqrt(np.mean(np.sum(centred**2, axis=1))), 1e-12)
    return flat


def turn_onto(places: dict[str, Floats], target: dict[str, Floats]) -> dict[str, Floats]:
    """`places` rotated or mirrored to lie nearest to `target` (orthogonal Procrustes); both as from `project`."""
    shared = [m for m in places if m in target]
    if not shared:
        return places
    ours, theirs = (np.concatenate([side[m] for m in shared]).astype(float) for side in (places, target))
    known = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
    turn, _ = orthogonal_procrustes(ours[known], theirs[known])
    return {m: (place @ turn).astype(np.float32) for m, place in places.items()}


def _coded(values: pd.Series) -> tuple[list[str], NDArray[np.uint8]]:
    """Group names by falling frequency and each clip's number among them; groups without a colour are "other"."""
    names = values.value_counts().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    shown = names if len(names) <= COLOURED + 1 else [*names[:COLOURED], "other"]
    number = {name: min(k, COLOURED) for k, name in enumerate(names)}
    return shown, values.map(number).to_numpy(dtype=np.uint8)


def _jpeg(frames: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[-2:])).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
