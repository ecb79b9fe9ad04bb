"""What SECURITY.md promises: no file runs code, leaves its folder, or turns into markup; nothing calls home."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import small_training
import small_work
import yaml
from browser import browser, needs_browser
from conftest import ROOT
from markup import HTML_OF_OTHERS, obeyed
from nbconvert.filters import markdown2html
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from payloads import DISGUISES, bombs
from raw_files import clicks, narration, write_media, write_raw

from mc3 import checkpoint, cli, config
from mc3.config import Config
from mc3.data import epic_sounds, manifest, media, shards
from mc3.data.annotations import read_json, read_table
from mc3.data.tokenizer import train as train_tokenizer
from mc3.errors import DataError, UserError
from mc3.extra import inventory, weights
from mc3.model import MC3
from mc3.paper import foreign, page, report, sweep, tables


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A port of this machine, and the first bytes of each connection to it so far."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as caller:
                        caller.settimeout(1)
                        heard.append(b"")
                        heard[-1] = caller.recv(200)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)


# files run no code


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings whose work folder has a checkpoint, and shards with their tokenizer."""
    work = tmp_path_factory.mktemp("work")
    settings = config.build(Config, small_work.tiny(small_work.mini(work)))
    (work / "shards").mkdir()
    train_tokenizer(["washes a plate"], 512).save(str(work / "shards" / "tokenizer.json"))
    MC3.initial(settings, 0).save(settings.paths.final("mc3", 0))
    return settings


@pytest.fixture
def own(trained: Config, tmp_path: Path) -> Config:
    """`trained` in a folder that a test may change."""
    shutil.copytree(trained.paths.work, tmp_path / "mini")
    return at(trained, tmp_path / "mini")


def at(settings: Config, work: Path) -> Config:
    return config.override(settings, {"paths.work": str(work), "paths.shards": str(work / "shards")})


def resumed(settings: Config, file: Path) -> Any:
    """A training resumes from `file`, which is called by its hash as states are."""
    run = checkpoint.Run(settings, "mc3", 0, "fingerprint", main=False)
    run.metrics.parent.mkdir(parents=True)
    run.metrics.touch()
    file.rename(run.folder / f"state-00000001-{hashlib.sha256(file.read_bytes()).hexdigest()}.pt")
    return run.resume()


def in_checkpoint(name: str) -> Callable[[Config, Path], Any]:
    def load(settings: Config, file: Path) -> MC3:
        folder = settings.paths.final("mc3", 0)
        file.rename(folder / name)
        return MC3.load(folder)

    return load


def in_shard(settings: Config, file: Path, hashed: bool = False) -> Any:
    """A clip whose member {clip_id}.npy is `file`; `hashed`, its index has the SHA-256 that belongs to it."""
    folder = settings.paths.work / "own"
    small_training.make_shards(folder, 1, 2)
    index = pd.read_parquet(folder / "index.parquet")
    with (folder / "all.tar").open("ab") as tar:
        index.loc[0, ["fbank_offset", "fbank_size"]] = tar.tell(), file.stat().st_size
        tar.write(file.read_bytes())
    if hashed:
        places = index.loc[0, [f"{m}_{p}" for m in shards.MEMBERS for p in ("offset", "size")]].tolist()
        data = (folder / "all.tar").read_bytes()
        parts = [data[offset : offset + size] for offset, size in zip(places[::2], places[1::2], strict=True)]
        index["sha256"] = hashlib.sha256(b"".join(parts)).hexdigest()
    index.to_parquet(folder / "index.parquet")
    return shards.ClipDataset(folder, split="train").fbank(0)


READERS: dict[str, tuple[str, Callable[[Config, Path], Any]]] = {
    **{f"weights convert {suffix}": (suffix, lambda c, f: weights.convert(f, "deit", c.model))
       for suffix in (".pt", ".pth", ".bin", ".safetensors")},
    "init.audio": (".safetensors", lambda c, f: MC3.initial(replace(c, init={"audio": f}), 0)),
    **{f"checkpoint {n}": ("", in_checkpoint(n)) for n in ("model.safetensors", "config.json", "tokenizer.json")},
    "training state": (".pt", resumed),
    "log-mel in a shard": (".npy", in_shard),
    "index of shards": (".parquet", lambda c, f: shards.read_index(f.rename(c.paths.shards / "index.parquet").parent)),
    "manifest": (".parquet", lambda c, f: manifest.read(f)),
    "evaluate .safetensors": (".safetensors", lambda c, f: foreign.read(f)),
    "evaluate .parquet": (".parquet", lambda c, f: foreign.read(f)),
    "annotations JSON": (".json", lambda c, f: read_json(f, "annotations")),
    "annotations CSV": (".csv", lambda c, f: read_table(f, ("video_id",), "annotations")),
    "EPIC-Sounds' sound": (".hdf5", lambda c, f: list(epic_sounds.clips_of(f, "v", [(0.0, 1.0)], 16000))),
    "video": (".mp4", lambda c, f: media.probe(f)),
    "sound": (".wav", lambda c, f: media.probe(f)),
    "settings": (".yaml", lambda c, f: config.load(f)),
    "sweep": (".yaml", lambda c, f: sweep.load(f.rename(Path("experiments", "x.yaml")).stem)),
}  # fmt: skip


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_bomb_goes_off_where_it_is_loaded_carelessly(tmp_path: Path, disguise: str) -> None:
    """So that the next test proves something."""
    canary, (hide, careless) = tmp_path / "canary", DISGUISES[disguise]
    hide(tmp_path / "bomb", bombs(canary)["os.system"])
    careless(tmp_path / "bomb")
    assert canary.exists()


@pytest.mark.parametrize("reader", READERS)
def test_no_disguise_of_a_pickle_goes_off_in_any_reader_and_each_is_refused(
    own: Config, tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    canary, (suffix, read) = tmp_path / "canary", READERS[reader]
    for disguise, (hide, _) in DISGUISES.items():
        top = tmp_path / "copy"
        shutil.copytree(own.paths.work, top)
        settings, file = at(own, top), top / f"bomb{suffix}"
        hide(file, bombs(canary)["os.system"])
        with pytest.raises(UserError) as error:
            read(settings, file)
        assert not canary.exists(), disguise
        assert "\n" not in str(error.value), disguise
        shutil.rmtree(top)


def test_a_bomb_in_a_shard_does_not_go_off_even_where_the_index_vouches_for_it(own: Config, tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "bomb.npy"
    DISGUISES["npy"][0](file, bombs(canary)["os.system"])
    with pytest.raises(ValueError, match="allow_pickle=False"):
        in_shard(own, file, hashed=True)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_checkpoint_cannot_name_code_to_import(own: Config, tmp_path: Path, name: str) -> None:
    canary, folder = tmp_path / "canary", own.paths.final("mc3", 0)
    (folder / "modeling_mc3.py").write_text(f"open({str(canary)!r}, 'w')\nModel = Tokenizer = object\n")
    content = json.loads((folder / name).read_text())
    odd = {"auto_map": {"AutoModel": "modeling_mc3.Model", "AutoTokenizer": ["modeling_mc3.Tokenizer", None]},
           "trust_remote_code": True, "tokenizer_class": "modeling_mc3.Tokenizer"}  # fmt: skip
    (folder / name).write_text(json.dumps(content | odd))
    with pytest.raises(UserError, match=r"auto_map|is damaged"):
        MC3.load(folder)
    assert not canary.exists()


# names stay inside their folders

UNSAFE = ("../out", "..", "/tmp/out", "a/../../out", "a\\..\\out", ".hidden", "C:out", "a:b", "a b", "a\tb", "a\x00b",
          "a\x1b[2Jb", "a\u202eb", "．．／out", "..\u2215out", "a\u2044b", "аb", "ｅ0", "~", "$(touch out)", "`out`",
          "%2e%2e%2fout", "a" * 201, "a" * 5000, "")  # fmt: skip


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture
def mixed(mini_config: Config, tmp_path: Path) -> Config:
    """Raw files in which each unsafe id stands wherever a file can name a video, an event or a sound."""
    raw, files = write_raw(mini_config, media=False), mini_config.ego4d
    names = [*UNSAFE, "a\nb"]  # a line break fits into JSON and HDF5, not into a line of a table
    data = json.loads((raw / files.metadata).read_text())
    data["videos"] += [{"video_uid": n, "duration_sec": 12.0, "audio_base_denominator": 1} for n in names]
    (raw / files.metadata).write_text(json.dumps(data))
    data = json.loads((raw / files.narrations).read_text())
    data["videos"] |= {n: {"narration_pass_1": {"narrations": [narration(1.0)]}} for n in names}
    (raw / files.narrations).write_text(json.dumps(data))
    cells = [name for name in UNSAFE if "\t" not in name]
    with (raw / files.labels["test"]).open("a") as file:
        file.writelines(f"1.0\t{name}\t#C C cuts\t1\tplate\twash\t1,1,1\n" for name in cells)
    times = "00:00:01.000,00:00:02.000,24000,48000,,t0,0\n"
    with (raw / mini_config.epic_sounds.annotations["train"]).open("a") as file:
        file.writelines(f"{name},P01,P01_00,{times}safe_{i},P01,{name},{times}" for i, name in enumerate(cells))
    with epic_sounds.h5py.File(raw / mini_config.epic_sounds.audio, "a") as file:
        for name in (n for n in names if n not in ("", "..") and not {"/", "\x00"} & {*n}):
            file[name] = np.zeros(240, np.float32)
    return mini_config


def test_every_unsafe_id_in_any_annotation_file_is_listed_and_nothing_is_written_outside_the_work_folder(
    mixed: Config, tmp_path: Path
) -> None:
    before = snapshot(tmp_path)
    table = manifest.read(manifest.write(mixed))
    inventory.plan(mixed)
    epic_sounds.check(mixed)
    work = mixed.paths.work
    written = {path for path, data in snapshot(tmp_path).items() if before.get(path) != data}
    inside = {path.relative_to(work).as_posix() for path in map(Path, written) if path != work}
    assert {name for name in inside if (work / name).is_file()} == {
        "manifest.parquet", "manifest_report.json", "video_uids.txt", "epic_sounds_check.json", "epic_video_ids.txt",
    }  # fmt: skip
    assert {*table["video_uid"]} == {"t0", "t1", "t2", "v0", "e0", "P01_00", "P01_01"}
    dropped = json.loads((work / "manifest_report.json").read_text())["dropped"]
    count = {name: sum(d["clips"] for d in dropped if d["file"].endswith(name) and "unsafe" in d["reason"])
             for name in ("ego4d.json", "narration.json", "test.tsv", "train.csv")}  # fmt: skip
    everywhere, cells = len(UNSAFE) + 1, len(UNSAFE) - 1
    assert count == {"ego4d.json": everywhere, "narration.json": everywhere, "test.tsv": cells, "train.csv": 2 * cells}
    assert all(entry[key].isprintable() for entry in dropped for key in ("row", "reason"))  # a terminal obeys others


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_name_on_the_command_line_or_in_a_file_of_embeddings_is_refused(
    repository: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    before = snapshot(repository.parent)
    for command in (["notebook", name], ["sweep", name], ["evaluate", "x.safetensors", "--row", name],
                    ["profile", name], ["train", "--method", name, "--seed", "0"]):  # fmt: skip
        if name or command[0] not in ("sweep", "evaluate"):  # without a name they do something else
            assert cli.main(command) == 1, command
            assert capsys.readouterr().err.count("\n") == 1
    assert snapshot(repository.parent) == before


HOSTILE_MEMBERS = (
    ("../../out", tarfile.REGTYPE, ""), ("/tmp/out", tarfile.REGTYPE, ""), ("link", tarfile.SYMTYPE, "/etc"),
    ("link/out", tarfile.REGTYPE, ""), ("hard", tarfile.LNKTYPE, "/etc/passwd"), ("device", tarfile.CHRTYPE, ""),
    ("pipe", tarfile.FIFOTYPE, ""), ("clip-000.jpg", tarfile.SYMTYPE, "/etc/passwd"),
)  # fmt: skip


def test_a_shard_is_read_by_offsets_so_that_no_member_of_it_is_ever_extracted(tmp_path: Path) -> None:
    folder = small_training.make_shards(tmp_path / "shards", 2, 2)
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as tar:
        for name, kind, target in HOSTILE_MEMBERS:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    plain = [shards.ClipDataset(folder, split="train")[i]["video"] for i in range(2)]
    ours = (folder / "all.tar").read_bytes()
    index, shift = pd.read_parquet(folder / "index.parquet"), len(hostile.getvalue())
    (folder / "all.tar").write_bytes(hostile.getvalue() + ours)  # members of these names stand before the clips' own
    index[[c for c in index if c.endswith("_offset")]] += shift
    index.to_parquet(folder / "index.parquet", index=False)
    before = snapshot(tmp_path)
    data = shards.ClipDataset(folder, split="train", modalities=("audio", "video", "sound"), in_memory=True)
    assert all((data[i]["video"] == plain[i]).all() for i in range(2))
    assert snapshot(tmp_path) == before


PLAYLISTS = {
    "HLS over the network": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "HLS of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{file}\n#EXT-X-ENDLIST\n",
    "concat over the network": "ffconcat version 1.0\nfile '{url}/a.mp4'\n",
    "concat of a file": "ffconcat version 1.0\nfile '{file}'\n",
    "concat of a file above": "ffconcat version 1.0\nfile '../secret/a.ts'\n",
    "DASH": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
            "<Representation id='1' bandwidth='1'><BaseURL>{url}/a.mp4</BaseURL></Representation></AdaptationSet>"
            "</Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "concat of a file beside it": "ffconcat version 1.0\nfile 'a.ts'\n",
    "an address": "{url}/a.mp4\n",
}  # fmt: skip


@pytest.mark.parametrize("form", PLAYLISTS)
def test_a_playlist_reaches_neither_the_network_nor_another_file(tmp_path: Path, form: str) -> None:
    secret = write_media(tmp_path / "secret" / "a.ts", 2.0, sound=clicks(2.0, np.array([0.5]), 16000))
    (tmp_path / "videos").mkdir()
    shutil.copy(secret, tmp_path / "videos")
    with listening() as (port, heard):
        for suffix in (".mp4", ".m3u8", ".ts", ".wav"):
            file = tmp_path / "videos" / f"v{suffix}"
            file.write_text(PLAYLISTS[form].format(url=f"http://127.0.0.1:{port}", file=secret))
            with pytest.raises(DataError, match="cannot be decoded"):
                media.probe(file)
        time.sleep(0.1)
        assert heard == []


@pytest.mark.parametrize(("text", "where"), [
    ("!!python/object/apply:os.system ['touch {canary}']", "params.yaml"),
    ("profile: !!python/object/apply:os.system ['touch {canary}']", "params.yaml"),
    ("a: !!python/name:os.system", "params.yaml"), ("!!python/object/new:os.system ['touch {canary}']", "params.yaml"),
    ("settings: !!python/object/apply:os.system ['touch {canary}']", "experiments/x.yaml"),
    ("stages: !!python/object/apply:os.system ['touch {canary}']", "dvc.yaml"),
    ("!!python/object/apply:os.system ['touch {canary}']", "-p"),
])  # fmt: skip
def test_a_yaml_tag_makes_no_object(repository: Path, tmp_path: Path, capsys, text: str, where: str) -> None:
    canary = tmp_path / "canary"
    text = text.format(canary=canary)
    yaml.unsafe_load(text.replace("new:os.system", "apply:os.system"))
    assert canary.exists() or "name:" in text  # so that this test proves something
    canary.unlink(missing_ok=True)
    command = {"experiments/x.yaml": ["sweep", "x"], "dvc.yaml": ["repro"], "-p": ["notebook", "data", "-p", "a", text]}
    if where != "-p":
        Path(where).parent.mkdir(exist_ok=True)
        Path(where).write_text(text)
    assert cli.main(command.get(where, ["manifest"])) == 1
    assert "could not determine a constructor for the tag" in capsys.readouterr().err
    assert not canary.exists()


# text is never markup


@pytest.fixture(scope="module")
def shown() -> str:
    """A page of a notebook in which each hostile text stands wherever an output or another page's title can have it."""
    texts, png = [*small_work.HOSTILE, *HTML_OF_OTHERS], small_work.Image.new("RGB", (8, 8))
    png.save(buffer := io.BytesIO(), "PNG")
    image, outputs = base64.b64encode(buffer.getvalue()).decode(), []
    for text in texts:
        table = tables.show(pd.DataFrame({text: [text]}), text).data
        for data in ({"text/html": text}, {"text/markdown": text}, {"text/plain": text}, {"text/html": table}):
            outputs.append(new_output("display_data", data))
        outputs.append(new_output("display_data", {"image/png": image}, metadata={"image/png": {"alt": text}}))
        outputs.append(new_output("stream", name="stdout", text=text))
    cells = [new_markdown_cell(text) for text in texts] + [new_code_cell("# " + " ".join(texts), outputs=outputs)]
    about = {"name": "n", "facts": {"parameters": texts, "commit": texts[0], "dirty": False}}
    links = [("next", f"p{i}", text) for i, text in enumerate(texts)]
    return page.render(new_notebook(cells=cells), " ".join(texts), links=links, **about)


def test_no_text_in_any_output_of_a_notebook_is_a_tag_or_an_address_that_runs(shown: str) -> None:
    assert obeyed(shown) == []
    assert shown.count("window.ran") > 100


@needs_browser
def test_a_browser_runs_none_of_it_and_asks_for_nothing(shown: str, tmp_path: Path) -> None:
    (tmp_path / "n.html").write_text(shown)
    with browser() as tab:
        tab.open((tmp_path / "n.html").as_uri())
        tab.run("[...document.querySelectorAll('main a:not([href^=\"http\"])')].forEach(a => a.click())")
        tab.run("[...document.querySelectorAll('main *')].forEach(e => e.dispatchEvent(new Event('mouseover')))")
        time.sleep(0.2)
        assert tab.run("typeof window.ran") == "undefined"
        assert tab.outside() == []
        assert tab.errors == []


def test_a_submitted_row_of_the_leaderboard_is_text_and_its_card_an_address_of_the_web() -> None:
    texts = [*small_work.HOSTILE, *HTML_OF_OTHERS, "a | b", "two\nlines"]
    sent = pd.DataFrame({"row": texts, "profile": "mini", "date": texts, "card": texts, "sha256": ""})
    sent.loc[len(sent)] = ["good", "mini", "2026-01-01", "https://example.org/card_(1)?a=b#c", ""]
    sent.loc[len(sent)] = ["good", "ego4d", "2026-01-01", "https://example.org/card", ""]
    found = {stem: tables.read(stem, "", ROOT / "figures") for stem in report.TABLES}
    board = report.leaderboard(found, "mini", sent.assign(**dict.fromkeys(tables.BOARD, 0.5)))
    shown = markdown2html(board)
    assert obeyed(shown) == []
    assert shown.count("<tr>") == markdown2html(report.leaderboard(found, "mini", sent[:0])).count("<tr>") + len(sent)
    addresses = re.findall('href="([^"]*)"', shown)
    assert "https://example.org/card" in addresses
    assert {address.partition(":")[0] for address in addresses if ":" in address} == {"https"}


# nobody listens, nobody calls


def test_make_lab_serves_this_machine_alone_and_asks_for_a_token(tmp_path: Path) -> None:
    recipe = subprocess.check_output(["make", "--dry-run", "lab"], cwd=ROOT, text=True)
    (start,) = [line for line in recipe.splitlines() if "-m jupyterlab" in line]
    (tmp_path / "notebooks").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"exec {start.replace('.venv/bin/python', sys.executable)} --no-browser --port={port} --port-retries=0"
    folders = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(tmp_path / name) for name in folders}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, shell=True, cwd=tmp_path, env=environment, stdout=log, stderr=log)

    def status(path: str, data: bytes | None = None, **headers: str) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    try:
        end = time.monotonic() + 60
        while not (running := list((tmp_path / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"))):
            assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.2)
        sockets = psutil.Process(server.pid).net_connections("inet")
        assert {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        token = json.loads(running[0].read_text())["token"]
        assert len(token) >= 32
        assert running[0].stat().st_mode & 0o077 == 0
        for path, data in (("/api/contents", None), ("/api/kernels", b"{}"), ("/api/terminals", b"{}")):
            assert status(path, data) == 403
            assert status(f"{path}?token=wrong", data) == 403
        assert status("/api/contents", Authorization=f"token {token}") == 200
        assert status("/api/contents", Authorization=f"token {token}", Host="attacker.example") == 403
    finally:
        server.terminate()
        server.wait()


WATCH = """
import fcntl, os, socket, struct, sys
if os.environ["MC3_ALONE"]:  # in a network of its own, whose loopback is down; a notebook and its kernel need it
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))
def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        if not isinstance(host, (str, bytes)) or event.startswith("socket.get"):
            with open(os.environ["MC3_CALLS"], "a") as file:
                file.write(f"{event} {host}\\n")
sys.addaudithook(note)
"""


def watched(folder: Path, code: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run `code` without network interfaces where this user may, and list the addresses that Python was asked for."""
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    calls = folder / "calls"
    calls.touch()
    alone = ["unshare", "--net", "--map-root-user"]
    allowed = shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    command = [*(alone if allowed else []), sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": f"{folder / 'watch'}:{ROOT}", "MC3_CALLS": str(calls)}
    environment["MC3_ALONE"] = "yes" if allowed else ""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done, calls.read_text().splitlines()


def test_the_watch_sees_a_call(tmp_path: Path) -> None:
    code = "import urllib.request\ntry: urllib.request.urlopen('http://192.0.2.1/', timeout=0.1)\nexcept OSError: pass"
    _, calls = watched(tmp_path, code)
    assert any("192.0.2.1" in call for call in calls)


def test_importing_the_package_and_asking_for_help_opens_no_connection(tmp_path: Path) -> None:
    done, calls = watched(tmp_path, "import mc3, mc3.cli; mc3.cli.main(['--help'])")
    assert done.stdout.startswith("usage: mc3"), done.stderr
    assert calls == []


def test_the_pipeline_runs_without_any_network(tmp_path: Path) -> None:
    settings = small_work.tiny(small_work.mini(tmp_path / "work"))
    settings["world"] |= {"videos": {"train": 2, "validation": 1, "test": 1}, "silent_videos": 0, "seconds": 12.0,
                          "epic_events": {"train": 45, "validation": 45}}  # fmt: skip
    settings["train"] |= {"epochs": {"pretrain": 1, "align": 1, "refine": 1}, "batch_size": 4, "warmup_steps": 1}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name in ("dvc.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    steps = [["world"], ["manifest"], ["shards"], ["train", "--method", "align", "--seed", "0"],
             ["embed", "--method", "align", "--seed", "0"], ["sources"], ["notebook", "data"]]  # fmt: skip
    code = f"from mc3.cli import main\nfor step in {steps}: assert main(step) == 0, step"
    done, calls = watched(tmp_path, code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "figures" / "report" / "data.html").exists()
    assert [call for call in calls if "127.0.0.1" not in call] == []
