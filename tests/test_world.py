"""The mini world: the paper's rates, the real data sets' file formats, and the same bytes for the same seed."""

import csv
import dataclasses
import hashlib
import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from conftest import ROOT
from raw_files import LABELS_HEADER, contents
from scipy.stats import binom

from mc3.config import Config, World, load, override
from mc3.errors import DataError
from mc3.files import replace_folder
from mc3.world import epic, generate, sound, vocabulary
from mc3.world import plan as plans
from mc3.world.motion import pose
from mc3.world.picture import SHAPES, frames

BACKGROUND = 13  # the class of events in which only the room sounds, as in EPIC-Sounds
SMALL = {"world.videos": {"train": 1, "validation": 1, "test": 1}, "world.silent_videos": 1, "world.seconds": 10.0,
         "world.epic_events": {"train": 50, "validation": 50}}  # fmt: skip


def small(config: Config, folder: Path, workers: int = 1) -> Config:
    """Three videos of 10 s, one of them without audio, and 100 sound events, written into `folder`."""
    return override(config, {**SMALL, "world.workers": workers, "paths.raw": str(folder)})


def rows_of(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter=delimiter))


@pytest.fixture(scope="module")
def profile() -> Config:
    return load(ROOT / "profiles" / "mini.yaml")


@pytest.fixture(scope="module")
def written(profile: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The settings of a small world that is on disk."""
    made = small(profile, tmp_path_factory.mktemp("world") / "raw")
    generate.write(made)
    return made


@pytest.fixture(scope="module")
def big(profile: Config) -> World:
    """A world of many videos with loud actions and right narrations, of which only the plan is made."""
    rates = dataclasses.replace(profile.world.rates, signal_db=0.0, misnarrated=0.0)
    videos = {"train": 50, "validation": 50, "test": 450}
    return dataclasses.replace(profile.world, videos=videos, silent_videos=4, rates=rates)


@pytest.fixture(scope="module")
def big_plan(big: World) -> list[plans.VideoPlan]:
    return plans.plan_videos(big)


@pytest.fixture(scope="module")
def actions(big_plan: list[plans.VideoPlan]) -> list[plans.Action]:
    return [action for video in big_plan for action in video.actions]


@pytest.fixture(scope="module")
def labelled(big_plan: list[plans.VideoPlan]) -> list[tuple[plans.Action, tuple[bool, ...]]]:
    """(action, votes) of every labelled narration."""
    narrations = [(video, n) for video in big_plan for n in video.narrations if n.votes is not None]
    return [(video.actions[n.action], n.votes) for video, n in narrations if n.action is not None]


def test_one_seed_makes_the_same_bytes_whatever_the_number_of_processes(written: Config, tmp_path: Path) -> None:
    again = small(written, tmp_path / "two", workers=2)
    generate.write(again)
    assert contents(again.paths.raw) == contents(written.paths.raw)


def test_the_profile_plans_the_world_of_the_committed_results(profile: Config) -> None:
    """Sound and pictures follow from the plan alone."""
    videos = plans.plan_videos(profile.world)
    times = [[a.start, a.duration, a.tempo, a.level] for video in videos for a in video.actions]
    votes = [[narration.votes for narration in video.narrations] for video in videos]
    facts = [generate.truth(videos), generate.narrations(videos, profile.world), times, votes]
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    assert found == "8071b802199a7a8daeba6268e553f993b5dd88956d8c29512b3ecd1215d3222b"


def test_another_seed_makes_another_world_and_fewer_videos_leave_the_others_as_they_were(big: World, big_plan) -> None:
    few = dataclasses.replace(big, videos={"train": 4, "validation": 2, "test": 2}, silent_videos=0)
    own, other = plans.plan_videos(few), plans.plan_videos(dataclasses.replace(few, seed=few.seed + 1))
    assert own == [*big_plan[:4], *big_plan[50:52], *big_plan[100:102]]
    for one, two in zip(own, other, strict=True):
        assert one.uid != two.uid
        assert one.narrations != two.narrations


@pytest.mark.parametrize("name", ["truth.csv", "v2/full_scale/photo.jpg", ".mc3-written"])
def test_a_folder_that_holds_the_users_files_is_refused_and_left_alone(written: Config, tmp_path: Path, name: str):
    mine = [tmp_path / "photos" / name, tmp_path / "photos" / "photo.jpg"]
    mine += [tmp_path / "photos.old" / "photo.jpg", tmp_path / "photos.new" / "photo.jpg"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine \xff")
    before = contents(tmp_path)
    reasons = r"photos.*(holds files but no \.mc3-written|not its file).*move it away or set paths.raw"
    with pytest.raises(DataError, match=reasons):
        generate.write(small(written, tmp_path / "photos"))
    assert contents(tmp_path) == before


def test_a_world_is_replaced_only_while_all_its_files_are_as_written(written: Config, tmp_path: Path) -> None:
    config = override(small(written, tmp_path / "link"), {"world.seconds": 5.0})
    shutil.copytree(written.paths.raw, tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("notes.txt", "truth.csv", "broken"):
        path = tmp_path / "link" / name
        original = path.read_bytes() if path.exists() else None
        path.symlink_to("nowhere") if name == "broken" else path.write_text("mine")
        with pytest.raises(DataError, match=rf"{name} is not as `mc3 world` wrote it"):
            generate.write(config)
        path.unlink() if original is None else path.write_bytes(original)
    before = contents(tmp_path / "elsewhere")
    generate.write(config)
    assert contents(tmp_path / "elsewhere") != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "link"]
    assert (tmp_path / "link").is_symlink()


def make(folder: Path, text: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """A folder of one file; `meanwhile` runs before it takes its place."""
    with replace_folder(folder, "mc3 make", "paths.x") as new:
        (new / "made.txt").write_text(text)
        meanwhile()


def test_a_folder_keeps_its_files_if_writing_new_ones_fails_or_one_is_added_meanwhile(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    before, mine = contents(tmp_path), tmp_path / "out" / "mine.txt"
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "out", "new", lambda: 1 / 0)
    assert contents(tmp_path) == before
    with pytest.raises(DataError, match=r"mine\.txt is not as `mc3 make` wrote it"):
        make(tmp_path / "out", "new", lambda: mine.write_text("mine"))
    assert contents(tmp_path) == {**before, "out/mine.txt": b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_verbs_sound_as_often_as_in_table_1_and_about_54_percent_of_all_labels_are_positive(labelled) -> None:
    for row in rows_of(ROOT / "data" / "paper" / "table1_verb_groups.csv"):
        verb, rate = row["verb"], float(row["sounding_rate"])
        mine = [sum(votes) >= 2 for action, votes in labelled if action.verb.label.split("_")[0] == verb]
        low, high = binom.ppf([0.0005, 0.9995], len(mine), rate)  # two-sided 99.9 % bounds a verb
        assert len(mine) > 200
        assert low <= sum(mine) <= high, (verb, sum(mine) / len(mine), rate)
    positive = np.mean([sum(votes) >= 2 for _, votes in labelled])
    assert positive == pytest.approx(17693 / 33000, abs=0.02)


def test_majorities_of_erring_annotators_report_the_requested_rate() -> None:
    rng = np.random.default_rng(0)
    for rate in (0.09, 0.5, 0.9):
        truth = rng.random(40000) < plans.true_rate(rate)
        votes = truth[:, None] != (rng.random((40000, 3)) < plans.ANNOTATOR_ERROR)
        assert (votes.sum(1) >= 2).mean() == pytest.approx(rate, abs=0.01)


def test_annotators_err_as_often_as_stated(labelled) -> None:
    wrong = [vote != (action.region == "I") for action, votes in labelled for vote in votes]
    low, high = binom.ppf([0.0005, 0.9995], len(wrong), plans.ANNOTATOR_ERROR)
    assert low <= sum(wrong) <= high


def test_region_follows_figure_2_and_a_camera_wearer_who_talks_is_not_visible(actions: list[plans.Action]) -> None:
    for action in actions:
        heard, seen, source = action.sounding, action.visible, bool(action.on_screen)
        agree = {
            "I": heard and seen, "II": not heard and source, "III": seen and not heard and not source,
            "IV": heard and not seen, "none": not (heard or seen or source),
        }  # fmt: skip
        assert [name for name, holds in agree.items() if holds] == [action.region]
    assert {action.region for action in actions} == {"I", "II", "III", "IV", "none"}
    talks = [action for action in actions if action.verb is vocabulary.TALK and action.actor == "C"]
    assert len(talks) > 100
    assert not any(action.visible for action in talks)


def test_uids_are_distinct_uuids_and_clip_times_distinct_and_inside_the_video(big: World, big_plan) -> None:
    uids = [video.uid for video in big_plan]
    assert len(set(uids)) == len(uids)
    assert all(str(uuid.UUID(uid)) == uid for uid in uids)
    for video in big_plan:
        times = [round(1000 * n.time) for n in video.narrations if n.action is not None]
        assert len(set(times)) == len(times)
        assert min(times) >= 500
        assert max(times) <= 1000 * (big.seconds - 1)


def test_nouns_and_action_groups_have_a_long_tail(actions: list[plans.Action]) -> None:
    actions = [action for action in actions if action.actor == "C"]
    nouns = [count for _, count in Counter(action.noun.label for action in actions).most_common()]
    assert len(nouns) == len(vocabulary.NOUNS)
    assert nouns[0] > 8 * nouns[-5]
    groups = Counter((a.verb.label, a.noun.label) for a in actions if a.region == "I")
    top = sum(count for _, count in groups.most_common(len(groups) // 5))
    assert len(groups) > 200
    assert top > 0.5 * sum(groups.values())


def test_a_burst_of_energy_may_come_with_a_silent_action(short: World, actions: list[plans.Action]) -> None:
    assert np.mean([action.off_screen == "activity" for action in actions if action.region == "III"]) > 0.1
    video = quiet_video(short, sounding=False)
    busy = tuple(dataclasses.replace(action, off_screen="activity") for action in video.actions)
    calm, noisy = (soundtrack(v, short) for v in (video, dataclasses.replace(video, actions=busy)))
    assert noisy.std() > 2 * calm.std()


def test_scenes_have_their_own_nouns(big_plan: list[plans.VideoPlan]) -> None:
    share = {}
    for name in ("kitchen", "workshop"):
        nouns = [a.noun.label for video in big_plan if video.scene.name == name for a in video.actions]
        share[name] = nouns.count("carrot") / len(nouns)
    assert share["kitchen"] > 2 * share["workshop"]


def test_every_noun_has_a_shape_and_a_sound_and_every_verb_a_motion_and_a_sound() -> None:
    rng = np.random.default_rng(0)
    for noun in vocabulary.NOUNS:
        if noun.kinds != "p":
            assert noun.shape in SHAPES
            assert np.linalg.norm(sound.resonance(noun.label, noun.material, rng)) == pytest.approx(1)
    moments = {}
    for verb in vocabulary.VERBS:
        name = verb.label.split("_")[0]
        if verb is not vocabulary.TALK:
            assert np.std(sound.contact(rng, name, vocabulary.NOUNS[0], 1.2, 3.0)) == pytest.approx(1, abs=1e-3)
            moments[name] = tuple(pose(name, phase, 1.2, 3.0) for phase in np.linspace(0, 1, 12))
    assert len(set(moments.values())) == len(vocabulary.VERBS) - 1


def test_materials_ring_as_long_as_their_decay() -> None:
    def length(material: str) -> float:
        answer = np.cumsum(sound.resonance("thing", material, np.random.default_rng(0)) ** 2)
        return float(np.searchsorted(answer, 0.9) / sound.RATE)

    order = sorted(sound.MATERIALS, key=lambda material: sound.MATERIALS[material][2])
    lengths = [length(material) for material in order if sound.MATERIALS[material][3] < 0.2]
    assert lengths == sorted(lengths)
    assert length("metal") > 3 * length("wood")


@pytest.fixture(scope="module")
def short(big: World) -> World:
    return dataclasses.replace(big, seconds=10.0)


def quiet_video(world: World, visible: bool = True, sounding: bool = True) -> plans.VideoPlan:
    """A video without sources: only actions and room tone sound."""
    video = plans.plan_video(world, "test", 0)
    hit = next(verb for verb in vocabulary.VERBS if verb.label.startswith("hit"))
    alike = {"verb": hit, "noun": vocabulary.NOUNS[0], "actor": "C", "on_screen": "", "off_screen": ""}
    alike |= {"visible": visible, "sounding": sounding}
    return dataclasses.replace(video, actions=tuple(dataclasses.replace(a, **alike) for a in video.actions))


def soundtrack(video: plans.VideoPlan, world: World) -> np.ndarray:
    return sound.soundtrack(video, world.seconds, world.clip_every_sec)


def test_an_action_is_audible_at_its_time_and_only_if_it_sounds(short: World) -> None:
    for sounding in (True, False):
        video = quiet_video(short, sounding=sounding)
        track = soundtrack(video, short)
        assert track.shape == (10 * sound.RATE,)
        for action in video.actions:
            start, stop = (int(t * sound.RATE) for t in (action.start, action.start + action.duration))
            during, before = np.mean(track[start:stop] ** 2), np.mean(track[start - sound.RATE // 3 : start] ** 2)
            assert (during > 10 * before) == sounding


def test_a_stroke_is_lowest_when_it_sounds() -> None:
    tempo, seconds = 2.5, 1.4
    blow = sound.excitation("cut", np.random.default_rng(0), seconds, tempo)
    peak = np.argmax(np.abs(blow)) / sound.RATE
    heights = [pose("cut", phase, seconds, tempo).right[1] for phase in np.linspace(0, 1, 500)]
    lowest = np.linspace(0, seconds, 500)[np.flatnonzero(np.isclose(heights, max(heights), atol=1e-3))]
    assert np.abs(lowest - peak).min() < 0.03


def test_hands_are_drawn_only_where_the_action_is_visible(short: World) -> None:
    seen, unseen = (frames(quiet_video(short, visible=visible), short) for visible in (True, False))
    times, actions = (np.arange(len(seen)) + 0.5) / short.fps, quiet_video(short).actions
    during = np.any([(times >= a.start) & (times <= a.start + a.duration) for a in actions], axis=0)
    changed = np.mean(seen.astype(int) != unseen, axis=(1, 2, 3))
    assert changed[during].min() > 0.05
    idle = times < actions[0].start - 0.5
    assert idle.any()
    assert not changed[idle].any()


def test_videos_decode_at_the_stated_rate_size_and_length(written: Config) -> None:
    raw, world = written.paths.raw, written.world
    metadata = json.loads((raw / written.ego4d.metadata).read_text())
    assert len(metadata["videos"]) == 3
    without = 0
    for entry in metadata["videos"]:
        path = str(raw / written.ego4d.videos / f"{entry['video_uid']}.mp4")
        with av.open(path) as container, av.open(path) as again:
            video = container.streams.video[0]
            assert (video.codec_context.name, video.average_rate) == ("h264", world.fps)
            pictures = list(container.decode(video))
            assert len(pictures) == entry["video_metadata"]["num_frames"] == 80
            assert (pictures[0].width, pictures[0].height) == (world.size, world.size)
            assert [i for i, p in enumerate(pictures) if p.key_frame] == [0, 24, 48, 72]
            assert bool(again.streams.audio) == (entry["video_metadata"]["audio_base_denominator"] is not None)
            without += not again.streams.audio
            for audio in again.streams.audio:
                assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 24000, 1)
                samples = sum(frame.samples for frame in again.decode(audio))
                assert samples / audio.rate == pytest.approx(entry["duration_sec"], abs=0.1)
    assert without == world.silent_videos


def test_a_decoded_video_has_the_rendered_pictures_and_sound(written: Config) -> None:
    world = written.world
    video = plans.plan_video(world, "test", 0)
    path = written.paths.raw / written.ego4d.videos / f"{video.uid}.mp4"
    drawn, made = frames(video, world), soundtrack(video, world)
    with av.open(str(path)) as container, av.open(str(path)) as again:
        seen = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        decoded = list(again.decode(audio=0))
    assert np.abs(seen.astype(float) - drawn).mean() < 6
    heard = np.concatenate([frame.to_ndarray()[0] for frame in decoded])
    first = round(decoded[0].time * sound.RATE)
    heard = heard[-first:] if first < 0 else np.pad(heard, (first, 0))
    length = min(len(heard), len(made))
    assert np.corrcoef(heard[:length], made[:length])[0, 1] > 0.9


def test_labels_truth_and_narrations_describe_the_same_clips(written: Config) -> None:
    raw = written.paths.raw
    narrated = {
        (uid, line["timestamp_sec"]): line["narration_text"]
        for uid, passes in json.loads((raw / written.ego4d.narrations).read_text())["videos"].items()
        for number in ("narration_pass_1", "narration_pass_2")
        for line in passes.get(number, {"narrations": []})["narrations"]
    }
    truth = {(row["video_uid"], float(row["narration_time"])): row for row in rows_of(raw / "truth.csv")}
    assert set(truth) <= set(narrated)
    for split, name in written.ego4d.labels.items():
        rows = rows_of(raw / name, "\t")
        assert list(rows[0]) == LABELS_HEADER.split()
        for row in rows:
            key = (row["video_uid"], float(row["narration_time"]))
            votes = [int(vote) for vote in row["votes"].split(",")]
            assert narrated[key] == row["clip_text"]
            assert row["clip_text"].startswith("#C C ")
            assert (row["tag_noun"] == "[]") == ("#unsure" in row["clip_text"])
            assert truth[key]["split"] == split
            assert len(votes) == 3
            assert int(row["positive"]) == sorted(votes)[1]


def test_narrations_use_words_of_their_group_in_both_passes(big: World, big_plan: list[plans.VideoPlan]) -> None:
    lines = [(video, n) for video in big_plan for n in video.narrations]
    assert {n.annotation for _, n in lines} == {1, 2}
    words = set()
    for video, narration in lines:
        if narration.action is None:
            assert narration.time > big.seconds or narration.text.strip() == "#C"
            continue
        action = video.actions[narration.action]
        if action.actor == "O":
            assert narration.text.startswith("#O ")
        else:
            forms = [plans.third_person(word) for word in action.verb.words]
            said = [form for form in forms if narration.text.startswith(f"#C C {form} ")]
            assert len(said) == 1
            words.add(said[0])
            assert "#unsure" in narration.text or any(word in narration.text for word in action.noun.words)
    assert words == {plans.third_person(word) for verb in vocabulary.VERBS for word in verb.words}
    assert any("#unsure" in n.text for _, n in lines)
    assert any(n.time > big.seconds for _, n in lines)


def test_third_person() -> None:
    forms = {"wash": "washes", "mix": "mixes", "empty": "empties", "talk to": "talks to", "cut": "cuts"}
    assert {verb: plans.third_person(verb) for verb in forms} == forms


def test_taxonomies_name_every_group_with_its_words(written: Config) -> None:
    rows = rows_of(written.paths.raw / written.ego4d.verb_taxonomy)
    assert [row["label"] for row in rows] == [verb.label for verb in vocabulary.VERBS]
    assert json.loads(rows[0]["group"].replace("'", '"')) == list(vocabulary.VERBS[0].words)


def test_epic_sounds_times_samples_and_audio_agree(written: Config) -> None:
    raw, settings = written.paths.raw, written.epic_sounds
    with h5py.File(raw / settings.audio) as audio:
        videos = {name: audio[name][:] for name in audio}
    seen: dict[str, str] = {}
    for split, name in settings.annotations.items():
        rows = rows_of(raw / name)
        assert len(rows) == written.world.epic_events[split]
        assert len({row["annotation_id"] for row in rows}) == len(rows)
        for row in rows:
            signal = videos[row["video_id"]]
            assert signal.dtype == np.float32
            assert np.abs(signal).max() <= 1
            for end in ("start", "stop"):
                hours, minutes, seconds = row[f"{end}_timestamp"].split(":")
                time = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
                assert int(row[f"{end}_sample"]) == round(24000 * time)
            assert 0.3 <= (int(row["stop_sample"]) - int(row["start_sample"])) / 24000 <= 3.0
            assert int(row["stop_sample"]) <= len(signal)
            assert row["class"] == epic.class_name(int(row["class_id"]))
            assert seen.setdefault(row["video_id"], split) == split


def test_epic_sounds_has_44_classes_as_uneven_as_the_real_ones(shared_data: Path) -> None:
    rows = rows_of(shared_data / "annotations" / "epic_sounds" / "EPIC_Sounds_validation.csv")
    real = np.bincount([int(row["class_id"]) for row in rows]) / len(rows)
    mine = epic.class_counts(8035) / 8035
    assert len(mine) == len(real) == len({epic.class_name(k) for k in range(44)}) == 44
    assert (mine**2).sum() == pytest.approx((real**2).sum(), abs=0.01)
    assert next(row["class"] for row in rows if row["class_id"] == str(BACKGROUND)) == "background"
    assert epic.class_name(BACKGROUND) == "background"


@pytest.mark.parametrize("events", [44, 100, 700, 1600])
def test_class_counts_add_up_and_leave_no_class_out(events: int) -> None:
    counts = epic.class_counts(events)
    assert counts.sum() == events
    assert counts.min() >= 1


def test_epic_events_are_louder_than_the_room_except_background_events(profile: Config) -> None:
    video = next(v for v in epic.plan_recordings(profile.world) if any(e.class_id == BACKGROUND for e in v.events))
    signal = epic.render_recording(video)
    room = np.mean(signal[: 24 * 500] ** 2)
    for event in video.events:
        power = np.mean(signal[24 * event.start_ms : 24 * event.stop_ms] ** 2)
        assert (power > 4 * room) == (event.class_id != BACKGROUND)
