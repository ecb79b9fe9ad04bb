"""The widget of notebooks/explore.ipynb: a map of embedded clips; a click shows a clip, its sound and its neighbours.

Frames, sound and neighbours are sent when a clip is clicked, so the notebook stays small and opens at once.
"""

import base64
import io
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
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.data.shards import ClipDataset
from mc3.errors import ConfigError
from mc3.paper import findings, priors

COLOURED = 9  # groups with a colour of their own; the rest are "other"


class Explorer(anywidget.AnyWidget):
    """A map of the validation and test clips as embedded by `method` of `seed` in `modality`, projected by `project`.

    Raises `ConfigError` if there is no such projection or modality, `DataError` if there are no embeddings.
    """

    _esm = Path(__file__).with_name("explorer.js")
    _css = Path(__file__).with_name("explorer.css")
    points = traitlets.Dict().tag(sync=True)

    def __init__(self, config: Config, method: str, seed: int, modality: str = "video", projection: str = "pca"):
        self.embeddings = store.embeddings(config, method, seed)
        if modality not in self.embeddings:
            raise ConfigError(f"no {modality} embeddings here; this method has {', '.join(self.embeddings)}")
        self.clips = ClipDataset(config.paths.shards, split=findings.SPLITS, modalities=("audio", "video"))
        self.index = index = findings.clips(config).reset_index(drop=True)
        self.sounds = index["positive"].map({1: "sounds", 0: "does not sound"}).astype(object).fillna("not labelled")
        verbs = index["verb"].map(priors.short).replace("", "no verb")
        shown = {"verb": verbs, "region": index["region"], "label": self.sounds, "split": index["split"]}
        groups = {name: _coded(values) for name, values in shown.items()}
        title = f"{methods.get(method).label}, seed {seed}: {modality} embeddings by {projection.upper()}"
        self.xy = project(self.embeddings[modality], projection)
        x, y = self.xy.round(4).T.tolist()
        super().__init__(points={"x": x, "y": y, "text": index["text"].tolist(), "groups": groups, "title": title})
        self.on_msg(self._answer)

    def neighbours(self, row: int, k: int = 3) -> pd.DataFrame:
        """The `k` other clips nearest to clip `row`, from each of its modalities to each other modality.

        Columns: pair ("video → audio"), rank, row, similarity, same_group (of actions), clip_id, text.
        """
        others = np.delete(np.arange(len(self.index)), row)
        group, tables = self.index.at[row, "action_group"], []
        for source, target in permutations(self.embeddings, 2):
            query, gallery = self.embeddings[source][row : row + 1], self.embeddings[target][others]
            near = others[evaluate.nearest(query, gallery, k)[0]]
            about = self.index.loc[near, ["action_group", "clip_id", "text"]].reset_index(drop=True)
            same = (about.pop("action_group") == group) & (group != "")
            cosine = (self.embeddings[target][near] @ query[0]).astype(float)
            ranked = {"rank": np.arange(1, len(near) + 1), "row": near, "similarity": cosine, "same_group": same}
            tables.append(pd.DataFrame({"pair": f"{source} → {target}", **ranked}).join(about))
        return pd.concat(tables or [pd.DataFrame(columns=["pair", "rank", "row"])], ignore_index=True)

    def clip(self, row: int) -> dict[str, Any]:
        """What the browser shows of clip `row`: film strip and sound (data URIs), text, facts, neighbours."""
        about = self.index.loc[row]
        frames, (samples, rate) = self.clips.frames(row), self.clips.waveform(row)
        strip, sound = io.BytesIO(), io.BytesIO()
        Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(strip, "JPEG", quality=90)  # below each other
        wavfile.write(sound, rate, samples)
        return {
            "kind": "clip", "row": row, "text": about["text"],
            "facts": f"{about['clip_id']} · {about['split']} · {self.sounds[row]} · region {about['region']}",
            "strip": _uri("image/jpeg", strip), "frames": len(frames),
            "sound": _uri("audio/wav", sound) if len(samples) else "",
            "seconds": len(samples) / rate if len(samples) else 1.5,
            "neighbours": self.neighbours(row).to_dict("records"),
        }  # fmt: skip

    def map(self, colour: str = "verb") -> pd.DataFrame:
        """The points for `mc3.paper.plots.scatter`, which draws them without a widget: x, y, group."""
        group = self.points["groups"][colour]
        return pd.DataFrame(self.xy, columns=["x", "y"]).assign(group=np.take(group["names"], group["codes"]))

    def _answer(self, _: Any, message: Any, buffers: Any) -> None:
        """Answer a message of the browser; a bad request gets an error message and raises nothing in the kernel."""
        row = message.get("row") if isinstance(message, dict) else None
        if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < len(self.index):
            self.send({"kind": "error", "message": f"no clip {row!r}; there are {len(self.index)}"})
            return
        try:
            self.send(self.clip(row))
        except (OSError, ValueError) as error:  # the shard was moved or rewritten meanwhile
            self.send({"kind": "error", "message": f"clip {self.index.at[row, 'clip_id']} cannot be read: {error}"})


def project(embeddings: NDArray[np.float32], projection: str, seed: int = 0) -> NDArray[np.float64]:
    """Embeddings [N, D] in the unit square [N, 2], by PCA or t-SNE (scikit-learn), the same for the same input."""
    if projection == "pca":
        flat = PCA(2, svd_solver="full").fit_transform(embeddings)
    elif projection == "tsne":
        perplexity = min(30.0, (len(embeddings) - 1) / 3)
        flat = TSNE(2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(embeddings)
    else:
        raise ConfigError(f"projection must be one of pca, tsne, not {projection!r}")
    return ((flat - flat.min(axis=0)) / np.maximum(np.ptp(flat, axis=0), 1e-12)).astype(np.float64)


def _coded(values: pd.Series) -> dict[str, Any]:
    """Group names by falling frequency and each clip's number among them; groups without a colour are "other"."""
    names = values.value_counts().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    shown = names if len(names) <= COLOURED + 1 else [*names[:COLOURED], "other"]
    number = {name: min(k, COLOURED) for k, name in enumerate(names)}
    return {"names": shown, "codes": [number[value] for value in values]}


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
