"""The widget of notebooks/explore.ipynb: embedded clips as points that show, sound and name their neighbours.

The browser gets two numbers, a narration and a few labels a clip. Frames, sound and neighbours of a
clip are sent when it is clicked, so that the notebook stays small and opens at once.
"""

from __future__ import annotations

import base64
import io
import wave
from itertools import permutations
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from numpy.typing import NDArray
from PIL import Image

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.errors import ConfigError
from mc3.paper import findings
from mc3.paper.plots import Clips

PROJECTIONS = ("pca", "tsne")
NAMED = 9  # groups with a colour of their own; the rest are "other"


class Explorer(anywidget.AnyWidget):
    """A map of embedded clips.

    Args:
        index: one row a clip: clip_id, split, text, verb, action_group, positive, region.
        embeddings: modality -> unit embeddings [N, D] of those rows.
        clips: where their frames and sound are read, by row.
        modality: the one that is drawn.
        projection: "pca" or "tsne", to two dimensions, seeded.
        title: what is drawn, in words.

    Raises:
        ConfigError: the projection or the modality does not exist.
    """

    _esm = Path(__file__).with_name("explorer.js")
    _css = Path(__file__).with_name("explorer.css")
    points = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        index: pd.DataFrame,
        embeddings: dict[str, NDArray[np.float32]],
        clips: Clips,
        modality: str,
        projection: str = "pca",
        title: str = "",
    ):
        if modality not in embeddings:
            raise ConfigError(f"no {modality} embeddings here; this method has {', '.join(embeddings)}")
        self.index, self.embeddings, self.clips = index.reset_index(drop=True), embeddings, clips
        self.places = project(embeddings[modality], projection)
        groups = {name: _coded(values) for name, values in _labels(self.index).items()}
        x, y = self.places.round(4).T.tolist()
        super().__init__(points={"x": x, "y": y, "text": index["text"].tolist(), "groups": groups, "title": title})
        self.on_msg(self._answer)

    @classmethod
    def of(cls, config: Config, method: str, seed: int, modality: str = "video", projection: str = "pca") -> Explorer:
        """The validation and test clips as `method` of `seed` embeds them. `DataError` when that was not made yet."""
        from mc3.data.shards import ClipDataset

        embeddings = store.embeddings(config, method, seed)[1]
        clips = ClipDataset(config.paths.shards, split=findings.SPLITS, modalities=("audio", "video"))
        title = f"{methods.get(method).label}, seed {seed}: {modality} embeddings by {projection.upper()}"
        return cls(findings.clips(config), embeddings, clips, modality, projection, title)

    def neighbours(self, row: int, k: int = 3) -> pd.DataFrame:
        """What lies nearest to clip `row`, from each modality of it to each other modality of the other clips.

        Columns: pair ("video → audio"), rank, row, similarity, same_group (of actions), clip_id, text.
        """
        others = np.delete(np.arange(len(self.index)), row)
        frames = []
        for source, target in permutations(self.embeddings, 2):
            query, pool = self.embeddings[source][row : row + 1], self.embeddings[target][others]
            near = others[evaluate.nearest(query, pool, k)[0]]
            part = self.index.loc[near, ["clip_id", "action_group", "text"]]
            group = self.index.at[row, "action_group"]
            frames.append(
                pd.DataFrame(
                    {
                        "pair": f"{source} → {target}",
                        "rank": np.arange(1, len(near) + 1),
                        "row": near,
                        "similarity": (self.embeddings[target][near] @ query[0]).astype(float),
                        "same_group": ((part["action_group"] == group) & (group != "")).to_numpy(),
                        "clip_id": part["clip_id"].to_numpy(),
                        "text": part["text"].to_numpy(),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["pair", "rank", "row"])

    def clip(self, row: int) -> dict[str, Any]:
        """What the browser shows of clip `row`: film strip and sound (data URIs), text, facts, neighbours."""
        about = self.index.loc[row]
        frames = self.clips.frames(row)
        samples, rate = self.clips.waveform(row)
        label = "not labelled" if pd.isna(about["positive"]) else "sounds" if about["positive"] else "does not sound"
        return {
            "kind": "clip",
            "row": row,
            "text": about["text"],
            "facts": f"{about['clip_id']} · {about['split']} · {label} · region {about['region']}",
            "strip": _uri("image/jpeg", _jpeg(frames)),
            "frames": len(frames),
            "sound": _uri("audio/wav", _wav(samples, rate)) if len(samples) else "",
            "seconds": len(samples) / rate if len(samples) else 1.5,
            "neighbours": self.neighbours(row).to_dict("records"),
        }

    def map(self, colour: str = "verb") -> pd.DataFrame:
        """The points as `mc3.paper.plots.scatter` draws them without widgets: x, y, group."""
        group = self.points["groups"][colour]
        names = [group["names"][code] for code in group["codes"]]
        return pd.DataFrame({"x": self.places[:, 0], "y": self.places[:, 1], "group": names})

    def _answer(self, _: Any, message: Any, buffers: Any) -> None:
        """Answer a message of the browser; what it must not ask for is told in words, not raised in the kernel."""
        row = message.get("row") if isinstance(message, dict) else None
        if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < len(self.index):
            self.send({"kind": "error", "message": f"no clip {row!r}; there are {len(self.index)}"})
            return
        try:
            self.send(self.clip(row))
        except (OSError, ValueError) as error:  # a shard that was moved or written anew meanwhile
            self.send({"kind": "error", "message": f"clip {self.index.at[row, 'clip_id']} cannot be read: {error}"})


def project(embeddings: NDArray[np.float32], projection: str, seed: int = 0) -> NDArray[np.float64]:
    """Embeddings [N, D] in the unit square [N, 2], by PCA or t-SNE (scikit-learn), the same for the same input."""
    if projection == "pca":
        from sklearn.decomposition import PCA

        flat = PCA(2, svd_solver="full").fit_transform(embeddings)
    elif projection == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(embeddings) - 1) / 3)
        flat = TSNE(2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(embeddings)
    else:
        raise ConfigError(f"projection must be one of {', '.join(PROJECTIONS)}, not {projection!r}")
    low, high = flat.min(axis=0), flat.max(axis=0)
    return ((flat - low) / np.maximum(high - low, 1e-12)).astype(np.float64)


def _labels(index: pd.DataFrame) -> dict[str, pd.Series]:
    label = index["positive"].map({1: "sounds", 0: "does not sound"}).astype(object).fillna("not labelled")
    return {
        "verb": index["verb"].map(findings.short).replace("", "no verb"),
        "region": index["region"],
        "label": label,
        "split": index["split"],
    }


def _coded(values: pd.Series) -> dict[str, Any]:
    """Names by falling frequency and each clip's number among them; what has no colour of its own is "other"."""
    counts = values.value_counts().rename_axis("name").reset_index(name="n")
    names = counts.sort_values(["n", "name"], ascending=[False, True])["name"].tolist()
    kept = names if len(names) <= NAMED + 1 else [*names[:NAMED], "other"]
    number = {name: min(k, NAMED) for k, name in enumerate(names)}
    return {"names": kept, "codes": [number[value] for value in values]}


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _jpeg(frames: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _wav(samples: NDArray[np.int16], rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()
