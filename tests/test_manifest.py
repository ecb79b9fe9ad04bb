import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from raw_files import narration

from mc3.config import Config
from mc3.data import manifest
from mc3.errors import DataError
from mc3.files import is_safe_id


def test_an_id_is_safe_only_without_separators_and_leading_dot():
    safe = ["P01_101_12", "0a1b-2c", "a.b"]
    unsafe = ["../../x", "a/b", "a\\b", ".hidden", "", "a b", "a\n", "ä", None, 7, "a" * 201]
    assert [value for value in safe + unsafe if is_safe_id(value)] == safe


def made(config: Config) -> tuple[pd.DataFrame, dict]:
    """The manifest and its report."""
    table = manifest.read(manifest.write(config))
    return table, json.loads((config.paths.work / "manifest_report.json").read_text())


def test_the_manifest_holds_every_usable_clip_once_in_order(mini_config: Config, raw: Path):
    table, _ = made(mini_config)
    assert table["clip_id"].is_unique
    counts = table.groupby(["dataset", "split"]).size().to_dict()
    assert counts == {("ego4d", "train"): 12, ("ego4d", "validation"): 2, ("ego4d", "test"): 2,
                      ("epic_sounds", "train"): 3, ("epic_sounds", "validation"): 3}  # fmt: skip
    order = ["dataset", "split", "video_uid", "start_sec"]
    assert table[order].equals(table[order].sort_values(order))
    assert table["positive"].isna().equals((table["dataset"] != "ego4d") | (table["split"] == "train"))
    assert table["class_id"].isna().equals(table["dataset"] != "epic_sounds")
    assert table.loc[table["split"] == "test", "positive"].tolist() == [1, 0]
    assert set(table.dtypes.astype(str)[["positive", "class_id"]]) == {"Int8", "Int16"}


def test_writing_twice_gives_the_same_bytes(mini_config: Config, raw: Path):
    written = []
    for _ in range(2):
        manifest.write(mini_config)
        written.append({path.name: path.read_bytes() for path in mini_config.paths.work.glob("*.*")})
    assert written[0] == written[1]
    assert set(written[0]) == {"manifest.parquet", "manifest_report.json"}


def test_every_bad_row_is_counted_and_listed_with_file_place_and_reason(mini_config: Config, raw: Path, capsys):
    clean, _ = made(mini_config)
    files = mini_config.ego4d
    narrations = json.loads((raw / files.narrations).read_text())
    t0 = narrations["videos"]["t0"]["narration_pass_1"]["narrations"]
    t0 += [narration(t) for t in (-1.0, 12.1, 1e9, float("nan"), 0.2)]
    t0 += [{"timestamp_sec": None, "narration_text": "#C C cuts"}, narration(11.0, "#C")]
    narrations["videos"]["../../x"] = {"narration_pass_1": {"narrations": [narration(1.0)]}}
    narrations["videos"]["stranger"] = {"narration_pass_1": {"narrations": [narration(1.0), narration(2.0)]}}
    (raw / files.narrations).write_text(json.dumps(narrations))
    with (raw / files.labels["test"]).open("a") as file:
        for row in ("1.0\te0", "99.0\te0", "-3\te0", "nan\te0", "1.0\ts0", "1.0\t../../x", "1.0\tgone"):
            file.write(f"{row}\t#C C cuts\t1\tplate\twash\t1,1,1\n")
    table, report = made(mini_config)
    assert table.equals(clean)
    listed = {(d["file"].split("/")[-1], d["row"], d["reason"], d["clips"]) for d in report["dropped"]}
    n, t = "narration.json", "sounding_actions_test.tsv"
    assert listed == {
        (n, "s0", "video without audio", 5),
        (n, "../../x", "unsafe video_uid", 1),
        (n, "stranger", "video not in the metadata", 2),
        *((n, f"t0/narration_pass_1[{place}]", reason, 1) for place, reason in enumerate([
            "narration time is negative", *["narration time beyond the end of the video"] * 2,
            "narration time is no number", "duplicated clip", "no timestamp_sec or narration_text", "empty narration",
        ], start=4)),
        *((t, f"line {line}", reason, 1) for line, reason in enumerate([
            "duplicated clip", "narration time beyond the end of the video", "narration time is negative",
            "narration time is no number", "video without audio", "unsafe video_uid", "video not in the metadata",
        ], start=4)),
    }  # fmt: skip
    assert sum(report["dropped_by_reason"].values()) == sum(clips for *_, clips in listed)
    printed = capsys.readouterr().out
    assert "dropped 2: unsafe video_uid" in printed
    assert "v2/annotations/narration.json, ../../x" in printed
    total = sum(len(p["narrations"]) for passes in narrations["videos"].values() for p in passes.values())
    dropped = sum(clips for name, *_, clips in listed if name == n)
    trained = ((table["dataset"] == "ego4d") & (table["split"] == "train")).sum()
    assert trained + dropped + sum(report["set_aside"].values()) == total


def test_labels_of_unknown_videos_only_are_an_error_that_names_the_remedy(mini_config: Config, raw: Path):
    labels = raw / mini_config.ego4d.labels["test"]
    labels.write_text(labels.read_text().replace("e0", "gone"))
    with pytest.raises(DataError, match=r"none of the 2 rows of .*test\.tsv.*same release of Ego4D"):
        manifest.write(mini_config)
    assert not (mini_config.paths.work / "manifest.parquet").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"videos": {}}', '{"videos": {"t0": {}}}', "[]", "{broken"])
def test_narrations_that_are_empty_or_broken_are_one_clear_sentence(mini_config: Config, raw: Path, content: str):
    (raw / mini_config.ego4d.narrations).write_text(content)
    with pytest.raises(DataError, match=r"narration\.json.*(empty|no narrations|not JSON).*fetch it again") as error:
        manifest.write(mini_config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["metadata", "narrations", "verb_taxonomy", "noun_taxonomy"])
def test_an_absent_file_is_named(mini_config: Config, raw: Path, field: str):
    path = raw / getattr(mini_config.ego4d, field)
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        manifest.write(mini_config)


def test_an_id_in_both_splits_is_kept_once(mini_config: Config, raw: Path):
    names = mini_config.epic_sounds.annotations
    (raw / names["validation"]).write_text((raw / names["train"]).read_text())
    table, report = made(mini_config)
    assert table["clip_id"].is_unique
    assert report["dropped_by_reason"]["annotation_id is in another split too"] == 3


def test_an_absent_or_foreign_manifest_is_named_with_the_command(tmp_path):
    with pytest.raises(DataError, match="`mc3 manifest` writes it"):
        manifest.read(tmp_path / "manifest.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(DataError, match="other columns"):
        manifest.read(tmp_path / "manifest.parquet")


@pytest.mark.parametrize("module", ["data.manifest", "data.media", "data.prepare", "data.shards", "extra.inventory"])
def test_reading_annotations_and_planning_shards_import_no_model_library(module: str):
    loaded = "{name.split('.')[0] for name in sys.modules} & {'torch', 'torchaudio', 'transformers', 'timm'}"
    program = f"import sys, mc3.{module}; print({loaded})"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"
