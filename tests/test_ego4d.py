import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_files import NOUNS, VERBS, narration, write_raw

from mc3.config import Config, override
from mc3.data import ego4d
from mc3.data.annotations import Report
from mc3.errors import DataError


def taxonomy(folder: Path, text: str) -> ego4d.Taxonomy:
    (folder / "t.csv").write_text(text)
    return ego4d.Taxonomy(folder / "t.csv")


@pytest.fixture
def taxonomies(tmp_path: Path) -> tuple[ego4d.Taxonomy, ego4d.Taxonomy]:
    return taxonomy(tmp_path, VERBS), taxonomy(tmp_path, NOUNS)


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict[str, ego4d.Taxonomy]:
    folder = shared_data / "annotations" / "ego4d"
    return {kind: ego4d.Taxonomy(folder / f"narration_{kind}_taxonomy.csv") for kind in ("verb", "noun")}


@pytest.mark.parametrize(
    ("narration", "sentence"),
    [("#C C washes the plate", "C washes the plate"), ("#c c  washes the plate \n", "c washes the plate"),
     ("# C C cuts #unsure with a knife", "C cuts something with a knife"), ("#C", ""),
     ("#C C talks to #O man X", "C talks to man X"), ("#O A man X washes a dish", None),
     ("#O man gives C the plate", None), ("C washes the plate", None), ("#Carpenter saws", None), ("#unsure", None)],
)  # fmt: skip
def test_only_the_wearers_narrations_are_kept_and_lose_their_tags(narration: str, sentence: str | None):
    assert ego4d.clean(narration) == sentence


@given(st.text(max_size=60))
def test_a_cleaned_sentence_never_has_a_tag_or_loose_space(text: str):
    sentence = ego4d.clean(f"#C {text}")
    assert sentence is not None
    assert "#" not in sentence
    assert sentence == " ".join(sentence.split())


@pytest.mark.parametrize(
    ("sentence", "groups"),
    [("C washes the plate", ("wash", "plate")), ("C is rinsing dishes", ("wash", "plate")),
     ("C chopped with two knives", ("cut_(chop)", "knife")), ("C cutting", ("cut_(chop)", "")),
     ("C picks up the drill bits with his hand", ("pick", "drill")), ("C turns over the plate", ("pick", "plate")),
     ("C looks around", ("", "")), ("C stares at a hand", ("", "hand")), ("Plate C washes", ("wash", "")),
     ("", ("", ""))],
)  # fmt: skip
def test_the_first_known_verb_and_the_first_noun_after_it_name_the_action(taxonomies, sentence: str, groups):
    assert ego4d.tag(sentence, *taxonomies) == groups


def test_of_two_entries_at_one_place_the_longer_wins(tmp_path: Path):
    drills = taxonomy(tmp_path, "label,group\nshort,\"['drill']\"\nlong,\"['drill bit']\"\n")
    assert drills.find(["the", "drill", "bits"]) == ("long", 3)
    assert drills.find(["the", "drill", "stops"]) == ("short", 2)


@pytest.mark.parametrize(("kind", "groups"), [("verb", 125), ("noun", 627)])
def test_the_published_taxonomies_have_the_published_groups_whose_words_are_found(published, kind: str, groups: int):
    found = published[kind]
    assert len(found.labels) == len(set(found.labels)) == groups
    for entry, label in found.words.items():
        assert found.find(list(entry)) == (label, len(entry))


def test_a_word_of_several_groups_belongs_to_the_one_that_is_named_after_it(tmp_path: Path):
    text = "label,group\nfork,\"['fork', 'plate', 'tool']\"\nchip_(wood),\"['chip', 'wood']\"\n"
    text += "plate_(dish),\"['plate', 'tool']\"\nwood_(log),\"['wood', 'log', 'tool']\"\n"
    words = {" ".join(word): label for word, label in taxonomy(tmp_path, text).words.items()}
    assert words["plate"] == "plate_(dish)"  # not the fork's, though that comes first
    assert words["wood"] == "wood_(log)"  # its first name, before one in brackets
    assert words["tool"] == "fork"  # nobody's name: the first


def test_cups_and_plates_of_the_published_taxonomy_are_no_cabinets_and_forks(published):
    for noun in ("cup", "plate", "spoon", "wood", "drill bit"):
        found = ego4d.tag(f"C lifts the {noun}s", *published.values())[1]
        assert found.partition("_(")[0] == noun.replace(" ", "_")
    assert published["noun"].words["nail",] == "screw_(bolt,_nail,_screw)"


def test_real_kitchen_narrations_nearly_all_have_an_ego4d_verb(shared_data: Path, published):
    sentences = pd.read_csv(shared_data / "annotations" / "epic_kitchens_100" / "EPIC_100_validation.csv")["narration"]
    found = [published["verb"].find(s.lower().split())[0] != "" for s in sentences]
    assert sum(found) / len(found) > 0.9


def test_a_group_that_is_no_python_list_is_an_error_with_its_line_and_is_not_evaluated(tmp_path: Path):
    with pytest.raises(DataError, match=r"t\.csv, line 3"):
        taxonomy(tmp_path, "label,group\na,\"['a']\"\nb,__import__('os').getcwd()\n")


def test_a_null_audio_base_denominator_means_no_sound_in_either_place(tmp_path: Path):
    sound, silent = {"audio_base_denominator": 48000}, {"audio_base_denominator": None}
    facts = [("a", 10.0, sound), ("b", 10.0, silent), ("c", 10.0, {"video_metadata": sound}),
             ("d", 10.0, {"video_metadata": silent}), ("../../etc/passwd", 10.0, sound), ("a", 12.0, sound),
             ("e", None, sound)]  # fmt: skip
    entries = [{"video_uid": uid, "duration_sec": seconds, **rate} for uid, seconds, rate in facts]
    path, report = tmp_path / "ego4d.json", Report(Path())
    path.write_text(json.dumps({"videos": entries}))
    videos = ego4d.read_videos(path, report)
    assert {uid: video.has_audio for uid, video in videos.items()} == {"a": True, "b": False, "c": True, "d": False}
    assert videos["a"].duration_sec == 10.0
    reasons = [d["reason"].split(" '")[0] for d in report.dropped]
    assert reasons == ["unsafe video_uid", "duplicated video_uid", "no duration_sec"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_both_shapes_of_narration_json_give_both_passes(tmp_path: Path, wrapped: bool):
    videos = {
        "b": {"narration_pass_2": {"narrations": [narration(2.0)]}},
        "a": {"status": "complete", "narration_pass_1": {"narrations": [narration(1.0)], "summaries": []},
              "narration_pass_2": {"narrations": [narration(3.0), {"timestamp_sec": 4.0}]}},
    }  # fmt: skip
    path, report = tmp_path / "narration.json", Report(Path())
    path.write_text(json.dumps({"videos": videos} if wrapped else videos))
    read = {uid: [time for _, time, _ in rows] for uid, rows in ego4d.read_narrations(path, report)}
    assert read == {"a": [1.0, 3.0], "b": [2.0]}
    assert [d["row"] for d in report.dropped] == ["a/narration_pass_2[1]"]


EGOCLIP = ["clip_idx", "video_uid", "video_dur", "narration_source", "narration_ind", "narration_time", "clip_start",
           "clip_end", "clip_text"]  # fmt: skip
SOUNDS = [*EGOCLIP[1:], "tag_verb", "tag_noun", "positive", "clip_file", "speech", "background_music"]


def table(columns: list[str], *rows: dict) -> str:
    """A TAB-separated table in a publisher's columns; those a row does not name hold 0."""
    lines = [columns, *([str(row.get(column, 0)) for column in columns] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


@pytest.mark.parametrize("columns", [[*EGOCLIP, "tag_verb", "tag_noun"], SOUNDS])
def test_a_table_of_narrations_reads_as_narration_json_does(tmp_path: Path, columns):
    rows = [("b", 2.0, "#C C washes the plate"), ("a", 3.5, '#C C opens a "box"'), ("a", 1.0, "#O A man sits")]
    path = tmp_path / "clips.csv"
    path.write_text(table(columns, *({"video_uid": u, "narration_time": t, "clip_text": text} for u, t, text in rows)))
    json_path = tmp_path / "narration.json"
    lines = {uid: [narration(t, text) for u, t, text in rows if u == uid] for uid in ("a", "b")}
    json_path.write_text(json.dumps({uid: {"narration_pass_1": {"narrations": own}} for uid, own in lines.items()}))

    def read(file: Path) -> dict[str, list[tuple[float, str]]]:
        report = Report(Path())
        found = {u: [(t, text) for _, t, text in rows] for u, rows in ego4d.read_narrations(file, report)}
        assert report.dropped == []
        return found

    assert read(path) == read(json_path)


def test_broken_rows_of_a_table_of_narrations_are_listed_by_their_line(tmp_path: Path):
    path, report = tmp_path / "clips.csv", Report(Path())
    good = {"video_uid": "a", "narration_time": 1.0, "clip_text": "#C C sits"}
    text = table(EGOCLIP, good, {**good, "narration_time": "soon"}, good)
    path.write_text(text + "one\ttoo\tfew\n" + table(EGOCLIP, {**good, "video_uid": "b"}).split("\n")[1])
    read = {uid: [row for row, _, _ in rows] for uid, rows in ego4d.read_narrations(path, report)}
    assert read == {"a": ["line 2", "line 4"], "b": ["line 6"]}
    listed = [(d["row"], d["reason"]) for d in report.dropped]
    assert listed == [("line 3", "narration time is no number"), ("line 5", "3 cells where the header has 9")]


def test_the_pipeline_trains_on_a_table_of_narrations(mini_config: Config):
    settings = override(mini_config, {"ego4d.narrations": "v2/annotations/egoclip.csv"})
    raw = write_raw(settings, media=False)
    rows = [{"video_uid": u, "narration_time": t, "clip_text": "#C C rinses the dish"}
            for u in ("t0", "e0", "s0", "../../x") for t in (1.0, 5.0)]  # fmt: skip
    (raw / settings.ego4d.narrations).write_text(table([*EGOCLIP, "tag_verb", "tag_noun"], *rows))
    report = Report(raw)
    clips = ego4d.clips(settings, report)
    train = [(c["video_uid"], c["narration_time"], c["verb"], c["noun"]) for c in clips if c["split"] == "train"]
    assert train == [("t0", 1.0, "wash", "plate"), ("t0", 5.0, "wash", "plate")]
    assert report.by_reason() == {"unsafe video_uid": 2, "video without audio": 2}
    assert report.set_aside == {"narration of a video kept for evaluation": 2}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [(["", "", ""], ["wash", "cut_(chop)", ""]), (["[]", "[]", "[2]"], ["wash", "cut_(chop)", "pick"]),
     (["[0]", "[2, 1]", "[]"], ["wash", "cut_(chop)", ""]), (["[0]", "1", "[2, 0]"], ["wash", "cut_(chop)", "pick"]),
     (["pick", "cut_(chop)", "wash"], ["pick", "cut_(chop)", "wash"]),
     (["[1]", "[2]", "[0]"], ["wash", "cut_(chop)", ""]),  # another release's places: they never fit the sentence
     (["[0]", "[1]", "[93]"], ["wash", "cut_(chop)", ""])],  # a place that this taxonomy does not have
)  # fmt: skip
def test_tags_are_labels_or_places_in_the_taxonomy_and_places_must_fit_it(taxonomies, tags, expected):
    found = [ego4d.tag(sentence, *taxonomies)[0] for sentence in ("C rinses", "C cuts", "C looks")]
    assert ego4d.groups(tags, found, taxonomies[0]) == expected


def test_places_in_the_published_taxonomy_name_what_its_words_do(published):
    verbs = published["verb"]
    found = [verbs.find(list(entry))[0] for entry in verbs.words]
    places = [verbs.labels.index(label) for label in verbs.words.values()]
    assert ego4d.groups([f"[{place}]" for place in places], [""] * len(places), verbs) == found
    assert ego4d.groups([f"[{(place + 1) % 125}]" for place in places], found, verbs) == found


def test_sentences_of_labelled_clips_lose_their_tags_whomever_they_are_about(mini_config: Config, raw: Path):
    cells = (1.0, "#O A man washes a dish", "1.0"), (2.0, "C cuts", "0.0"), (3.0, "#c c cuts", "1")
    rows = [{"video_uid": "e0", "narration_time": t, "clip_text": text, "positive": p} for t, text, p in cells]
    (raw / mini_config.ego4d.labels["test"]).write_text(table(SOUNDS, *rows))
    clips = [c for c in ego4d.clips(mini_config, Report(raw)) if c["split"] == "test"]
    assert [(c["text"], c["positive"]) for c in clips] == [("A man washes a dish", 1), ("C cuts", 0), ("c cuts", 1)]


def test_labels_of_one_kind_only_are_refused_with_the_remedy(mini_config: Config, raw: Path):
    row = {"video_uid": "e0", "narration_time": 1.0, "clip_text": "#C C cuts", "positive": "1.0"}
    (raw / mini_config.ego4d.labels["test"]).write_text(table(SOUNDS, row))
    with pytest.raises(DataError, match=r"only sounding actions.*ego4d\.narrations"):
        ego4d.clips(mini_config, Report(raw))


@pytest.mark.parametrize("kind", ["narrations", "metadata", "labels"])
def test_a_file_that_is_not_utf8_is_refused_with_the_byte(mini_config: Config, raw: Path, kind: str):
    name = mini_config.ego4d.labels["test"] if kind == "labels" else getattr(mini_config.ego4d, kind)
    data = (raw / name).read_bytes()
    (raw / name).write_bytes(data[:60] + b"\xe9" + data[60:])
    with pytest.raises(DataError, match=rf"{Path(name).name}, byte 60: not UTF-8"):
        ego4d.clips(mini_config, Report(raw))


HEADER = "narration_time\tvideo_uid\tclip_text\t"


@pytest.mark.parametrize(
    ("columns", "rows", "positive"),
    [("votes", ["1,0,1", "0,1,0", "[1, 1, 1]"], {2: True, 3: False, 4: True}),
     ("positive", ["1", "0", "True"], {2: True, 3: False, 4: True}),
     ("positive\tvotes", ["1\t1,0,1", "0\t0,1,0", "True\t"], {2: True, 3: False, 4: True}),
     ("positive\tvotes", ["1\t1,0,1", "0\t1,0,1", "\t1,0", "maybe\t"], {2: True})],
)  # fmt: skip
def test_labels_are_the_majority_of_votes_or_as_they_are_and_contradictions_are_listed(
    tmp_path, columns, rows, positive
):
    path, report = tmp_path / "labels.tsv", Report(Path())
    path.write_text("\n".join([HEADER + columns, *(f"1.0\tv\t#C C cuts\t{row}" for row in rows)]))
    found = ego4d.read_labels(path, report)
    assert dict(zip(found["line"], found["positive"], strict=True)) == positive
    assert [d["row"] for d in report.dropped] == [f"line {n}" for n in range(2, 2 + len(rows)) if n not in positive]


def test_label_files_without_labels_or_columns_are_errors(tmp_path: Path):
    path = tmp_path / "labels.tsv"
    path.write_text(f"{HEADER}tag_verb\n1.0\tv\t#C C cuts\tcut\n")
    with pytest.raises(DataError, match="neither a column `votes` nor `positive`"):
        ego4d.read_labels(path, Report(Path()))
    path.write_text("video_uid\tpositive\nv\t1\n")
    with pytest.raises(DataError, match=r"labels\.tsv has no column `narration_time`"):
        ego4d.read_labels(path, Report(Path()))


def test_training_clips_are_of_videos_without_labels_and_windows_half_a_second_before_to_one_after(
    mini_config: Config, raw: Path
):
    clips = ego4d.clips(mini_config, Report(Path()))
    train = [c for c in clips if c["split"] == "train"]
    assert {c["video_uid"] for c in train} == {"t0", "t1", "t2"}
    groups = {("wash", "plate"), ("cut_(chop)", "knife"), ("wash", ""), ("pick", "drill")}
    assert {(c["verb"], c["noun"]) for c in train} == groups
    rest = [(c["clip_id"], c["positive"], c["action_group"], c["text"]) for c in clips if c["split"] == "test"]
    assert rest == [(f"e0_00000{t}000", y, "wash plate", "C washes the dish") for t, y in ((1, 1), (4, 0))]
    for clip in clips:
        assert (clip["start_sec"], clip["end_sec"]) == (clip["narration_time"] - 0.5, clip["narration_time"] + 1.0)


def test_the_sample_depends_on_the_seed_and_not_on_the_order_of_the_file(mini_config: Config):
    def sample(seed: int, reverse: bool) -> list[str]:
        built = override(mini_config, {"ego4d.train_clips": 5, "ego4d.sampling_seed": seed})
        path = write_raw(built, media=False) / built.ego4d.narrations
        videos = json.loads(path.read_text())["videos"]
        if reverse:
            for passes in videos.values():
                passes["narration_pass_1"]["narrations"].reverse()
        path.write_text(json.dumps(dict(sorted(videos.items(), reverse=reverse))))
        return [c["clip_id"] for c in ego4d.clips(built, Report(Path())) if c["split"] == "train"]

    assert len(sample(0, reverse=False)) == 5
    assert sample(0, reverse=False) == sample(0, reverse=True)
    assert len({tuple(sample(seed, reverse=False)) for seed in range(4)}) > 1
