"""Submission to EPIC-Sounds' challenge "Audio-Based Interaction Recognition": a zip with one JSON file of class scores.

Format: epic-kitchens/C9-epic-sounds. Supervision levels: epic-kitchens/SLS (Damen and Wray 2020); entrants declare them
and nothing here can check them.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mc3 import store
from mc3.config import Config
from mc3.data import epic_sounds
from mc3.data.annotations import Report
from mc3.errors import ConfigError, DataError
from mc3.files import write_atomic

CHALLENGE, VERSION = "audio_based_interaction_recognition", "0.1"
LEVELS = {"sls_pt": 5, "sls_tl": 5, "sls_td": 5, "t_mod": 2}  # name -> highest value; `--help` explains each


def write(config: Config, method: str, seed: int, protocol: str, levels: Mapping[str, int], out: Path) -> Path:
    """Write the test split's scores of one method and probe protocol to the zip file `out`, the same bytes every time.

    Raises `ConfigError` if `epic_sounds.annotations` has no split `test`, or one of `LEVELS` is missing or out of
    range, `DataError` if there are no such scores, or not of every event of the annotation file.
    """
    if "test" not in config.epic_sounds.annotations:
        remedy = "name EPIC_Sounds_recognition_test_timestamps.csv there, then `mc3 repro` cuts and scores its events"
        raise ConfigError(f"epic_sounds.annotations has no `test`; {remedy}")
    file = config.paths.raw / config.epic_sounds.annotations["test"]
    wanted = epic_sounds.read_events(file, Report(config.paths.raw))["annotation_id"]
    scores, key = store.probe_scores(config, seed, "test"), f"{protocol}/{method}"
    if key not in scores:
        known = ", ".join(sorted(scores)) or "none; `mc3 probe` makes them"
        raise DataError(f"no test scores {key} of seed {seed}; there are {known}")
    ids = store.events(config, "test")["clip_id"].tolist()
    if missing := sorted(set(wanted) - set(ids)):
        fault = f"{len(missing)} of {len(wanted)} events of {file} have no scores, such as {missing[0]}"
        raise DataError(f"{fault}; `mc3 data epic-sounds check` says why")
    member = zipfile.ZipInfo("test.json")  # dated 1980, no owner
    member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, json.dumps(content(ids, scores[key], levels)))
    write_atomic(out, buffer.getvalue())
    return out


def content(ids: Sequence[str], scores: NDArray[np.floating], levels: Mapping[str, int]) -> dict[str, Any]:
    """The submission as plain data: scores [N, 44], higher is likelier, of the annotation `ids` [N], with `levels`."""
    for name, highest in LEVELS.items():
        if levels.get(name) not in range(highest + 1):
            raise ConfigError(f"{name} is 0..{highest}, not {levels.get(name)}; `mc3 submission --help` explains it")
    if scores.shape != (len(ids), epic_sounds.CLASSES):
        fault = f"scores of {len(ids)} events are {list(scores.shape)}"
        raise DataError(f"{fault}; the challenge has {epic_sounds.CLASSES} classes")
    if len(set(ids)) != len(ids) or not np.isfinite(scores).all():
        raise DataError("scores must be finite and of each event once; check the checkpoint's training loss")
    rows = [{"interaction": {str(c): float(score) for c, score in enumerate(row)}} for row in scores]
    results = dict(zip(ids, rows, strict=True))
    return {"version": VERSION, "challenge": CHALLENGE, **{name: levels[name] for name in LEVELS}, "results": results}
