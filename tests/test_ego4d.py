import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_files import NOUNS, VERBS, narration, write_raw

from mc3.config import Config
from mc3.data import DataError, ego4d
from mc3.data.annotations import Report


@pytest.fixture
def taxonomies(tmp_path: Path) -> tuple[ego4d.Taxonomy, ego4d.Taxonomy]:
    (tmp_path / "verbs.csv").write_text(VERBS)
    (tmp_path / "nouns.csv").write_text(NOUNS)
    return ego4d.Taxonomy(tmp_path / "verbs.csv"), ego4d.Taxonomy(tmp_path / "nouns.csv")


@pytest.mark.parametrize(
    ("narration", "sentence"),
    [
        ("#C C washes the plate", "C washes the plate"),
        ("#c c  washes the plate \n", "c washes the plate"),
        ("# C C cuts #unsure with a knife", "C cuts something with a knife"),
        ("#C C talks to #O man X", "C talks to man X"),
        ("#C", ""),
        ("#O A man X washes a dish", None),
        ("#O man gives C the plate", None),
        ("C washes the plate", None),
        ("#Carpenter saws", None),
        ("#unsure", None),
    ],
)
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
    [
        ("C washes the plate", ("wash", "plate")),
        ("C is rinsing dishes", ("wash", "plate")),
        ("C chopped with two knives", ("cut_(chop)", "knife")),
        ("C cutting", ("cut_(chop)", "")),
        ("C picks up the drill bits with his hand", ("pick", "drill")),
        ("C turns over the plate", ("pick", "plate")),
        ("C looks around", ("", "")),
        ("C stares at a hand", ("", "hand")),
        ("Plate C washes", ("wash", "")),
        ("", ("", "")),
    ],
)
def test_the_first_known_verb_and_the_first_noun_after_it_name_the_action(taxonomies, sentence: str, groups):
    assert ego4d.tag(sentence, *taxonomies) == groups


def test_of_two_entries_at_one_place_the_longer_wins(tmp_path: Path):
    (tmp_path / "t.csv").write_text("label,group\nshort,\"['drill']\"\nlong,\"['drill bit']\"\n")
    taxonomy = ego4d.Taxonomy(tmp_path / "t.csv")
    assert taxonomy.find(["the", "drill", "bits"]) == ("long", 3)
    assert taxonomy.find(["the", "drill", "stops"]) == ("short", 2)


@pytest.mark.parametrize(("kind", "groups"), [("verb", 125), ("noun", 627)])
def test_the_published_taxonomies_have_the_published_number_of_groups(shared_data: Path, kind: str, groups: int):
    taxonomy = ego4d.Taxonomy(shared_data / "annotations" / "ego4d" / f"narration_{kind}_taxonomy.csv")
    assert len(taxonomy.labels) == len(set(taxonomy.labels)) == groups


def test_every_word_of_the_published_taxonomies_is_found_in_a_sentence(shared_data: Path):
    for kind in ("verb", "noun"):
        taxonomy = ego4d.Taxonomy(shared_data / "annotations" / "ego4d" / f"narration_{kind}_taxonomy.csv")
        for entry, label in taxonomy.words.items():
            assert taxonomy.find(list(entry)) == (label, len(entry))


def test_real_kitchen_narrations_nearly_all_have_an_ego4d_verb(shared_data: Path):
    import pandas as pd

    folder = shared_data / "annotations"
    verbs = ego4d.Taxonomy(folder / "ego4d" / "narration_verb_taxonomy.csv")
    sentences = pd.read_csv(folder / "epic_kitchens_100" / "EPIC_100_validation.csv")["narration"]
    found = [verbs.find(s.lower().split())[0] != "" for s in sentences]
    assert sum(found) / len(found) > 0.9


def test_a_group_that_is_no_python_list_is_an_error_with_its_line_and_is_not_evaluated(tmp_path: Path):
    (tmp_path / "t.csv").write_text("label,group\na,\"['a']\"\nb,__import__('os').getcwd()\n")
    with pytest.raises(DataError, match=r"t\.csv, line 3"):
        ego4d.Taxonomy(tmp_path / "t.csv")


def test_a_null_audio_base_denominator_means_no_sound_in_either_place(tmp_path: Path):
    entries = [
        {"video_uid": "a", "duration_sec": 10.0, "audio_base_denominator": 48000},
        {"video_uid": "b", "duration_sec": 10.0, "audio_base_denominator": None},
        {"video_uid": "c", "duration_sec": 10.0, "video_metadata": {"audio_base_denominator": 48000}},
        {"video_uid": "d", "duration_sec": 10.0, "video_metadata": {"audio_base_denominator": None}},
        {"video_uid": "../../etc/passwd", "duration_sec": 10.0, "audio_base_denominator": 48000},
        {"video_uid": "a", "duration_sec": 12.0, "audio_base_denominator": 48000},
        {"video_uid": "e", "duration_sec": None, "audio_base_denominator": 48000},
    ]
    path = tmp_path / "ego4d.json"
    path.write_text(json.dumps({"videos": entries}))
    report = Report(Path())
    videos = ego4d.read_videos(path, report)
    assert {uid: video.has_audio for uid, video in videos.items()} == {"a": True, "b": False, "c": True, "d": False}
    assert videos["a"].duration_sec == 10.0
    assert [d["reason"].split(" '")[0] for d in report.dropped] == [
        "unsafe video_uid", "duplicated video_uid", "no duration_sec"
    ]  # fmt: skip


@pytest.mark.parametrize("wrapped", [True, False])
def test_both_shapes_of_narration_json_give_both_passes(tmp_path: Path, wrapped: bool):
    videos = {
        "b": {"narration_pass_2": {"narrations": [narration(2.0)]}},
        "a": {"status": "complete", "narration_pass_1": {"narrations": [narration(1.0)], "summaries": []},
              "narration_pass_2": {"narrations": [narration(3.0), {"timestamp_sec": 4.0}]}},
    }  # fmt: skip
    path = tmp_path / "narration.json"
    path.write_text(json.dumps({"videos": videos} if wrapped else videos))
    report = Report(Path())
    read = {uid: [time for _, time, _ in rows] for uid, _, rows in ego4d.read_narrations(path, report)}
    assert read == {"a": [1.0, 3.0], "b": [2.0]}
    assert [d["row"] for d in report.dropped] == ["a/narration_pass_2[1]"]


HEADER = "narration_time\tvideo_uid\tclip_text\t"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["votes", "1,0,1", "0,1,0", "[1, 1, 1]"], [True, False, True]),
        (["positive", "1", "0", "True"], [True, False, True]),
        (["positive\tvotes", "1\t1,0,1", "0\t0,1,0", "True\t"], [True, False, True]),
    ],
)
def test_labels_come_from_the_majority_of_votes_or_as_they_are(tmp_path: Path, lines, expected):
    path = tmp_path / "labels.tsv"
    path.write_text("\n".join([HEADER + lines[0], *(f"1.0\tv\t#C C cuts\t{line}" for line in lines[1:])]))
    report = Report(Path())
    assert ego4d.read_labels(path, report)["positive"].tolist() == expected
    assert report.dropped == []


def test_labels_that_say_nothing_or_contradict_themselves_are_listed(tmp_path: Path):
    path = tmp_path / "labels.tsv"
    rows = ["1\t1,0,1", "0\t1,0,1", "\t1,0", "maybe\t"]
    path.write_text("\n".join([f"{HEADER}positive\tvotes", *(f"1.0\tv\t#C C cuts\t{row}" for row in rows)]))
    report = Report(Path())
    assert ego4d.read_labels(path, report)["row"].tolist() == ["line 2"]
    assert [d["row"] for d in report.dropped] == ["line 3", "line 4", "line 5"]


def test_label_files_without_labels_or_columns_are_errors(tmp_path: Path):
    path = tmp_path / "labels.tsv"
    path.write_text(f"{HEADER}tag_verb\n1.0\tv\t#C C cuts\tcut\n")
    with pytest.raises(DataError, match="neither a column `votes` nor `positive`"):
        ego4d.read_labels(path, Report(Path()))
    path.write_text("video_uid\tpositive\nv\t1\n")
    with pytest.raises(DataError, match=r"labels\.tsv has no column `narration_time`"):
        ego4d.read_labels(path, Report(Path()))


def test_training_clips_are_of_videos_without_labels_and_labels_keep_their_groups(mini_config: Config):
    write_raw(mini_config, media=False)
    clips = ego4d.clips(mini_config, Report(Path()))
    train = [c for c in clips if c["split"] == "train"]
    assert {c["video_uid"] for c in train} == {"t0", "t1", "t2"}
    assert {(c["verb"], c["noun"]) for c in train} == {
        ("wash", "plate"),
        ("cut_(chop)", "knife"),
        ("wash", ""),
        ("pick", "drill"),
    }
    rest = [(c["clip_id"], c["positive"], c["action_group"], c["text"]) for c in clips if c["split"] == "test"]
    assert rest == [
        ("e0_000001000", 1, "wash plate", "C washes the dish"),
        ("e0_000004000", 0, "wash plate", "C washes the dish"),
    ]


def test_the_sample_depends_on_the_seed_and_not_on_the_order_of_the_file(mini_settings: dict):
    from mc3 import config

    def sample(seed: int, reverse: bool) -> list[str]:
        mini_settings["ego4d"] |= {"train_clips": 5, "sampling_seed": seed}
        built = config.build(Config, mini_settings)
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


def test_a_window_is_half_a_second_before_to_one_after(mini_config: Config):
    write_raw(mini_config, media=False)
    for clip in ego4d.clips(mini_config, Report(Path())):
        assert clip["start_sec"] == clip["narration_time"] - 0.5
        assert clip["end_sec"] == clip["narration_time"] + 1.0
