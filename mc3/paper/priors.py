"""Audio-language discovery without a model: rows of Table 2 that a joint model has to beat.

The narration alone predicts much of whether its action sounds. The first three rows never hear the clip; loudness
hears it, but knows nothing of actions.
"""

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mc3 import store
from mc3.config import Config

PAPER = Path(__file__).parents[2] / "data" / "paper"
LABELS = {
    "verb_prior": "Verb alone, validation labels",
    "verb_rates": "Verb alone, Table 1",
    "spacing": "Time between narrations",
    "loudness": "Loudness",
}
PAIR = "al"  # the pair whose column they stand in: their query is the narration


def short(label: str) -> str:
    """A taxonomy label without the synonyms that it lists: "cut_(trim,_slice,_chop)" is "cut"."""
    return re.sub(r"_\([^)]*\)", "", label).replace("_", " ")


def published_rates() -> pd.Series:
    """Table 1 of the paper: the share of sounding clips by verb."""
    return pd.read_csv(PAPER / "table1_verb_groups.csv").set_index("verb")["sounding_rate"]


def scores(config: Config) -> pd.DataFrame:
    """`store.labelled` with a column for each row of `LABELS`, higher where the action is taken to sound.

    - verb_prior: the share of the verb's labelled validation clips that sound; of a verb without any, of all.
    - verb_rates: the verb's rate in the paper's Table 1 (zero-shot); of a verb that is not there, their mean.
    - spacing: seconds between the narrations before and after, in the same video; a narration has no duration.
    - loudness: the mean log-mel energy of the clip.
    """
    labelled, every = store.labelled(config), store.clips(config)
    validation = every[(every["split"] == "validation") & every["positive"].notna()]
    prior = validation.groupby("verb")["positive"].mean().astype(float)
    overall = float(validation["positive"].mean()) if len(validation) else 0.5
    paper = published_rates()
    return labelled.assign(
        verb_prior=labelled["verb"].map(prior).fillna(overall),
        verb_rates=labelled["verb"].map(short).map(paper).fillna(paper.mean()),
        spacing=_spacing(every)[labelled["row"]],
        loudness=loudness(config, labelled),
    )


def _spacing(clips: pd.DataFrame) -> NDArray[np.float64]:
    """Seconds from the narration before to the one after, [N]; a missing side counts as long as the other."""
    time = clips.sort_values("narration_time", kind="stable")["narration_time"]
    video = clips.loc[time.index, "video_uid"]
    before, after = time.groupby(video).diff(), time.groupby(video).diff(-1).abs()
    both = before.fillna(after) + after.fillna(before)
    return both.fillna(0.0).reindex(clips.index).to_numpy()


def loudness(config: Config, clips: pd.DataFrame) -> NDArray[np.float64]:
    """The mean log-mel energy of each of `clips`, rows of the shards' index, [N]."""
    energies = []
    for shard, offset, size in clips[["shard", "fbank_offset", "fbank_size"]].itertuples(index=False):
        with (config.paths.shards / shard).open("rb") as file:
            file.seek(offset)
            fbank = np.load(io.BytesIO(file.read(size)), allow_pickle=False)
        energies.append(fbank.astype(np.float64).mean())
    return np.array(energies)
