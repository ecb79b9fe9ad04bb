"""The commands in the order of the help; what they call is imported when they run, so that help comes at once."""

from pathlib import Path
from typing import Any

from mc3 import methods
from mc3.cli.parser import Arguments, Group, Lazy, check_count, check_exists, check_name, check_positive, option
from mc3.errors import ConfigError
from mc3.files import write_atomic

core, data, paper, extra = map(Lazy, ("mc3", "mc3.data", "mc3.paper", "mc3.extra"))
ONE_SEED = option("--seed", type=int, default=0, help="of a --method (default: 0)")
CHECKPOINT = option("--checkpoint", help="a checkpoint's folder, or owner/name of the Hugging Face hub "
                    "(default: MC3 of the first seed)")  # fmt: skip
ROOT = option("--root", type=Path, metavar="FOLDER", help="where a table's relative paths begin (default: paths.raw)")
LEVEL: dict[str, Any] = {"type": int, "metavar": "N"}
FOLDERS = {  # commands that have commands, and their help
    "data": "What a data set's publisher ships: what of it is needed, and whether it is whole.",
    "data ego4d": "Ego4D's videos: `plan` before the download, `check` after it.",
    "data epic-sounds": "EPIC-Sounds' sound: whose is needed, and whether it fits.",
}


def checkpoint_of(args: Arguments) -> str | Path:
    """The checkpoint that a command is to use: the one given, which is checked if it is a path, or MC3's."""
    if args.checkpoint is None:
        return args.settings.paths.final(methods.with_role("reference"), args.settings.seeds[0])
    if args.checkpoint.count("/") != 1 or args.checkpoint.startswith((".", "/", "~")):
        check_exists(Path(args.checkpoint))
    return args.checkpoint


USE, REPRODUCE, DATA, EXPLORE = GROUPS = list(map(Group, ("use a model", "reproduce the paper", "data", "experiments")))


@USE.command("mc3 discover my_video.mp4 --page moments.html",
    option("video", nargs="+", help="video files with sound, or folders of them"), CHECKPOINT,
    option("--every", type=float, default=0.5, metavar="SEC", help="step between windows (default: 0.5)"),
    option("--window", type=float, default=1.5, metavar="SEC", help="length of a window (default: 1.5)"),
    option("--text", action="append", default=[], help="compare the sound with this too; may be repeated"),
    option("--narrations", type=Path, metavar="FILE", help="compare the sound with the narration in each window; "
           "Ego4D's narration.json, or a table video_uid, narration_time, clip_text; video_uid is the file's name"),
    option("--top", type=int, default=10, help="how many moments of each video (default: 10)"),
    option("--out", type=Path, metavar="FILE", help="write all windows there, as .csv or .json"),
    option("--page", type=Path, metavar="HTML", help="write a page that plays the moments by click"),
    option("--picture", type=Path, metavar="FILE", help="draw z, spectrogram and moments, as .png, .svg or .pdf"),
    option("--extract", type=Path, metavar="FOLDER", help="cut the moments out as MP4 with sound"))  # fmt: skip
def discover(args: Arguments) -> int:
    """Find the moments of a video whose sound comes from the action in the picture.

    Each window's sound and pictures are compared with re-paired ones of the same video: z and p. Exit code 3: a file
    could not be read; the others are done.
    """
    check_positive(every=args.every, window=args.window)
    check_count(top=args.top)
    if args.narrations:
        check_exists(args.narrations)
    own = extra.own_video
    files = own.files_of(args.video)
    own.check_targets(out=(args.out, own.WRITERS), page=(args.page, [".html"]),
                      picture=(args.picture, own.PICTURES), extract=(args.extract, []))  # fmt: skip
    scoring = (args.every, args.window, args.text, args.top, args.narrations)
    return own.run(args.settings, checkpoint_of(args), files, *scoring, args.out, args.page, args.picture, args.extract)


@USE.command("mc3 index my_videos sounds.txt --out my_index",
    option("source", nargs="+", help="media files, folders of them, tables of clips (CSV, Parquet: path, start_sec, "
           "end_sec, perhaps text), or texts, a line each (.txt)"), CHECKPOINT, ROOT,
    option("--every", type=float, metavar="SEC", help="step between windows (default: a window's length)"),
    option("--out", type=Path, required=True, metavar="FOLDER", help="where to write the index"),
    option("--approximate", action="store_true", help="add a graph for fast search in millions (pip install "
           "faiss-cpu)"))  # fmt: skip
def index(args: Arguments) -> int:
    """Index clips by their embeddings, for `mc3 retrieve`.

    Exit code 3: a file could not be read; the others are done.
    """
    if args.every is not None:
        check_positive(every=args.every)
    extra.own_video.check_targets(out=(args.out, []))
    places = (args.source, args.root or args.settings.paths.raw, args.every, args.out, args.approximate)
    return extra.search.make(args.settings, checkpoint_of(args), *places)


@USE.command("mc3 retrieve my_index 'chops an onion' --page found.html",
    option("index", type=Path, metavar="INDEX", help="a folder that `mc3 index` wrote"),
    option("query", help="a media file, or a text"), CHECKPOINT,
    option("--by", default="", help="which of the query counts: video, audio or text (default: the pictures of a file "
           "that has some)"),
    option("--to", default="", help="what is compared with it: video, audio or text (default: audio; video for sound)"),
    option("--part", type=float, nargs=2, metavar=("START", "END"), help="only this part of the file, in seconds"),
    option("--top", type=int, default=10, help="how many (default: 10)"),
    option("--approximate", action="store_true", help="search the graph of `mc3 index --approximate`"),
    option("--out", type=Path, metavar="FILE", help="write what was found there, as .csv or .json"),
    option("--page", type=Path, metavar="HTML", help="write a page that plays what was found"),
    option("--mux", type=Path, metavar="VIDEO", help="write the query's pictures with the best sound"))  # fmt: skip
def retrieve(args: Arguments) -> None:
    """Search an index: sounds for a video, videos for a sound, either for a text, or texts for either."""
    check_count(top=args.top)
    own = extra.own_video
    own.check_targets(out=(args.out, own.WRITERS), page=(args.page, [".html"]), mux=(args.mux, extra.search.MUXED))
    query = (args.query, args.by, args.to, args.part, args.top, args.approximate)
    extra.search.run(args.settings, checkpoint_of(args), args.index, *query, args.out, args.page, args.mux)


@USE.command("mc3 filter clips.csv --keep 0.3 --out sounding.csv",
    option("table", type=Path, metavar="CLIPS", help="a table of clips: CSV or Parquet with path, start_sec, end_sec; "
           "the pipeline's manifest, for example"), CHECKPOINT, ROOT,
    option("--out", type=Path, required=True, metavar="FILE", help="the table with a column `score`, .csv or .parquet"),
    option("--keep", type=float, metavar="SHARE", help="keep this share of the clips, the best (default: all)"),
    option("--threshold", type=float, metavar="SCORE", help="keep the clips from this score on"),
    option("--split", help="score and filter only this split's clips; the others stay"),
    option("--rank", type=int, metavar="R", help="score only what falls to process R of ..."),
    option("--world", type=int, metavar="W", help="... W processes; without --rank `mc3 filter` then joins them"),
)  # fmt: skip
def filter(args: Arguments) -> int:
    """Score a table of clips by how well sound and pictures agree, and keep the best: mines sounding actions.

    `mc3 shards --manifest` reads a filtered manifest. Exit code 3: a file could not be read; its clips are left out.
    """
    if args.keep is not None and (args.threshold is not None or not 0 < args.keep <= 1):
        raise ConfigError(f"--keep {args.keep}: give a share above 0 and up to 1, and no --threshold beside it")
    if (args.rank is None) != (args.world is None):
        raise ConfigError("--rank and --world go together: rank R of a world of W processes")
    extra.own_video.check_targets(out=(args.out, (".csv", ".parquet")))
    places = (args.table, args.out, args.root or args.settings.paths.raw)
    chosen = (args.split, args.keep, args.threshold, args.rank, args.world or 1)
    return extra.mine.run(args.settings, checkpoint_of(args), *places, *chosen)


@USE.command("mc3 evaluate mine.safetensors --row mine",
    option("file", type=Path, metavar="EMBEDDINGS", help="safetensors or Parquet: clip_id, audio, video, text"),
    option("--row", metavar="NAME", help="keep it as a row of every table (default: only its own page)"),
    option("--epic-sounds", type=Path, metavar="FILE", help="features of EPIC-Sounds' events: Table 4"))  # fmt: skip
def evaluate(args: Arguments) -> None:
    """Measure any model's embeddings of the clips by the paper's protocol, beside our rows.

    docs/benchmark.md shows how to make such a file.
    """
    name = args.row or args.file.stem
    for note in paper.foreign.add(args.settings, args.file, name, args.epic_sounds, bool(args.row)):
        print(note)
    page = paper.notebook.run("evaluate", args.settings, {"config": args.config, "row": name})
    print(f"open {page}; tables are in figures/evaluate/")
    if args.row:
        file = f"{paper.foreign.FOLDER}/{args.settings.profile}/{name}.safetensors"
        print(f"kept as {file}; `mc3 repro` now puts {name} into every table")


@USE.command("mc3 weights convert --kind egovlp egovlp.pth --out weights/egovlp",
    option("action", choices=["convert", "join"], help="convert a file, or join converted folders to a checkpoint"),
    option("source", type=Path, nargs="+", help="the checkpoint as published; to join: folders, the first that has a "
           "modality counts"),
    option("--kind", help="to convert: egovlp, lavila, soundingactions, deit, ast or ssast"),
    option("--out", required=True, type=Path, metavar="FOLDER", help="for MODALITY.safetensors, card.json; when joined "
           "for a checkpoint that --checkpoint takes"),
)  # fmt: skip
def weights(args: Arguments) -> None:
    """Convert a published checkpoint into weights that a profile's `init` can name, and join such to a checkpoint."""
    check_exists(*args.source)
    if args.action == "join":
        about = extra.weights.join(args.source, args.settings.model, args.out)
        print(f"{args.out}: {about}")
    elif args.kind is None or len(args.source) != 1:
        raise ConfigError("mc3 weights convert takes one file and its --kind, e.g. --kind egovlp egovlp.pth")
    else:
        print(*extra.weights.write(args.source[0], args.kind, args.settings.model, args.out), sep="\n")


@REPRODUCE.command("mc3 repro -- --force manifest",
    option("dvc", nargs="*", metavar="DVC-ARGUMENT", help="passed to `dvc repro`, after --"))  # fmt: skip
def repro(args: Arguments) -> int:
    """Run every stage that is out of date; prints the running stage and the time left."""
    return paper.repro.run(args.settings, args.dvc)


@REPRODUCE.command("mc3 compare",
    option("--tables", action="store_true", help="first show Tables 2 and 3, and where to go from there"))  # fmt: skip
def compare(args: Arguments) -> int:
    """Compare the numbers in figures/ with the committed ones; with --tables, show Tables 2 and 3 too.

    Exit code: 0 equal, 3 within the spread of seeds, 4 different, 1 an error.
    """
    if args.tables:
        paper.compare.show(Path("figures"))
    return paper.compare.run(Path("figures"), args.settings.paths.work / "compare.csv")


@REPRODUCE.command("mc3 profile mini", option("name", help="the name of a file in profiles/"))
def profile(args: Arguments) -> None:
    """Choose the settings: copies profiles/NAME.yaml to params.yaml."""
    check_name("profile", args.name, "profiles", sorted(path.stem for path in Path("profiles").glob("*.yaml")))
    source = Path("profiles", f"{args.name}.yaml")
    core.config.load(source)
    write_atomic(Path(args.config), source.read_bytes())
    print(f"{args.config} is now profile {args.name}; `mc3 repro` runs what that changes")


@REPRODUCE.command("mc3 pretrain")
def pretrain(args: Arguments) -> None:
    """Make the weights that training starts from, or check those that `init` names."""
    print(paper.pretrain.write(args.settings))


@REPRODUCE.command("mc3 train --method mc3 --seed 0",
    option("--method", help="a row of mc3/methods.py, `align` (the shared first stage) or `ssast` (default: all that "
           "are not up to date, of all seeds)"), ONE_SEED,
    option("--dry-run", action="store_true", help="only print parameters, steps, memory and hours"),
    option("--processes", type=int, default=1, help="of a dry run, a device each (default: 1)"),
    option("--peak-tflops", type=float, help="of a dry run's device (default: that of the GPU here)"))  # fmt: skip
def train(args: Arguments) -> None:
    """Train one method from one seed, or all; with --dry-run, estimate memory and time instead."""
    if args.method is None:
        return paper.jobs.make(args.settings, "train")
    recipe = methods.get(args.method)
    core.objectives.check(recipe)  # before the heavier imports below
    if args.dry_run:
        print(extra.estimate.plan(args.settings, args.method, args.processes, args.peak_tflops))
    else:
        core.train.run(args.settings, args.method, args.seed)


@REPRODUCE.command("mc3 embed --method mc3 --seed 0",
    option("--method", help="a row of mc3/methods.py, or `align` (default: all that are not up to date, of all seeds)"),
    ONE_SEED)  # fmt: skip
def embed(args: Arguments) -> None:
    """Embed the validation and test clips with one checkpoint, or with all."""
    if args.method is None:
        return paper.jobs.make(args.settings, "embed")
    methods.get(args.method)  # raises before imports that take seconds
    core.embed.run(args.settings, args.method, args.seed)


REPRODUCE.call("mc3 probe", "paper.jobs.make", "Classify EPIC-Sounds with the audio encoders of all seeds: linear "
               "probe and fine-tuning.", "probe")  # fmt: skip


@REPRODUCE.command("mc3 retrain --seeds 0",
    option("--seeds", type=int, nargs="+", help="of the profile's (default: all)"),
    option("--fresh", action="store_true", help="begin again instead of continuing a stopped run"))  # fmt: skip
def retrain(args: Arguments) -> int:
    """Train everything anew beside the released weights, and compare Tables 2-4 digit by digit."""
    return 0 if paper.retrain.run(args.settings, args.seeds or args.settings.seeds, args.fresh) else 1


@REPRODUCE.command("mc3 sources")
def sources(args: Arguments) -> None:
    """Write what stages depend on: canonical notebooks and code identities."""
    out = args.settings.paths.work / "sources"
    copies, codes = paper.notebook.sources(Path("notebooks"), out), paper.notebook.codes(args.settings, out)
    print(f"{len(copies)} canonical notebooks and {len(codes)} code identities in {out}")


@REPRODUCE.command("mc3 notebook retrieval -p method cmc",
    option("name", help="the notebook's name, without folder and .ipynb"),
    option("-p", dest="parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
           help="a parameter of the notebook's `parameters` cell; the value is read as YAML"))  # fmt: skip
def notebook(args: Arguments) -> None:
    """Execute one notebook: its figures, and its page of the report."""
    import yaml

    try:
        parameters = {name: yaml.safe_load(value) for name, value in args.parameter}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"-p takes a name and a YAML value: {error}") from None
    print(f"open {paper.notebook.run(args.name, args.settings, {'config': args.config, **parameters})}")


@REPRODUCE.command("mc3 report",
    option("--table", action="store_true", help="only print Table 2 over seeds, for README.md"))  # fmt: skip
def report(args: Arguments) -> None:
    """Write the report's contents page, the overview figure and metrics/; or print the README's table."""
    print(paper.report.readme_table() if args.table else f"open {paper.report.write(args.settings)}")


DATA.call("mc3 data ego4d plan", "extra.inventory.plan", "List the videos to download: how many, hours, with or "
          "without sound, about how many bytes.")  # fmt: skip
DATA.call("mc3 data ego4d check", "extra.inventory.write", "Check the downloaded videos: missing, truncated, without "
          "sound, shorter than their annotations.")  # fmt: skip
DATA.call("mc3 data epic-sounds check", "data.epic_sounds.check", "Check EPIC-Sounds' annotations and sound against "
          "each other; list the videos whose sound is needed.")  # fmt: skip
DATA.call("mc3 world", "world.write", "Generate the small world in the real data sets' own file formats.")


@DATA.command("mc3 source")
def source(args: Arguments) -> int:
    """Run the command that the profile names as its source of raw data."""
    return args.main([*args.settings.source.command.split(), "--config", args.config])


DATA.call("mc3 manifest", "data.manifest.write", "Read the publishers' annotations into one table of clips.")


@DATA.command("mc3 shards --submit 16 --slurm partition=cpu time=600",
    option("--rank", type=int, metavar="R", help="cut only what falls to process R of ..."),
    option("--world", type=int, metavar="W", help="... W processes; `mc3 shards` then joins what they cut"),
    option("--submit", type=int, metavar="N", help="cut as N SLURM tasks (here, without SLURM), then join"),
    option("--manifest", type=Path, metavar="FILE", help="instead of the pipeline's, e.g. of `mc3 filter`"),
    option("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="sbatch's parameters for the tasks"),
)  # fmt: skip
def shards(args: Arguments) -> None:
    """Cut the clips once and pack them; --rank or --submit spread the work over machines."""
    import yaml

    if (args.rank is None) != (args.world is None):
        raise ConfigError("--rank and --world go together: rank R of a world of W processes")
    if args.submit is not None and (args.submit < 1 or args.rank is not None):
        raise ConfigError("--submit takes how many tasks, one or more, and makes their ranks itself")
    pairs = [pair.partition("=") for pair in args.slurm]
    if args.submit is not None and args.manifest:
        raise ConfigError("--manifest does not go with --submit; give it with --rank and --world")
    if args.slurm and (args.submit is None or not all(name and value for name, _, value in pairs)):
        raise ConfigError("--slurm takes KEY=VALUE and goes with --submit, e.g. --submit 16 --slurm partition=cpu")
    if args.submit is not None:
        extra.submit.submit(args.settings, args.submit, {name: yaml.safe_load(value) for name, _, value in pairs})
    elif args.rank is not None:
        data.prepare.write_share(args.settings, args.rank, args.world, args.manifest)
    else:
        data.prepare.write(args.settings, args.manifest)


@DATA.command("mc3 clips --export exported --split test",
    option("--export", type=Path, required=True, metavar="FOLDER", help="for CLIP_ID.mp4, CLIP_ID.wav and clips.csv"),
    option("--split", choices=["train", "validation", "test", "train+validation", "validation+test"], default="test",
           help="whose clips (default: test)"),
    option("--dataset", choices=["ego4d", "epic_sounds"], default="ego4d",
           help="EPIC-Sounds' events have sound alone (default: ego4d)"),
    option("--rate", type=int, metavar="HZ", help="sample rate of the sound (default: the source's own)"),
)  # fmt: skip
def clips(args: Arguments) -> None:
    """Export the clips of a split as MP4 and WAV files, for other models to be run on."""
    extra.clips.export(args.settings, args.export, args.split, args.dataset, args.rate)


@EXPLORE.command("mc3 sweep ablations --hours 1",
    option("name", nargs="?", help="of experiments/NAME.yaml; without one, the sweeps are listed"),
    option("--list", action="store_true", help="list the sweeps"),
    option("--seeds", type=int, nargs="+", help="instead of the sweep's"),
    option("--hours", type=float, help="begin no training that would end later"),
    option("--processes", type=int, metavar="N",
           help="trainings at once, each with its share of train.threads (default: one a thread; one where a GPU is)"),
)  # fmt: skip
def sweep(args: Arguments) -> int:
    """Train methods under other settings and seeds, as experiments/NAME.yaml says; continues where it stopped."""
    known = sorted(path.stem for path in Path("experiments").glob("*.yaml") if path.stem != "dvc")
    if args.name is None or args.list:
        for name in known:
            text = Path("experiments", f"{name}.yaml").read_text()
            about = next((line for line in text.splitlines() if line.startswith("about: ")), "about: ")
            print(f"{name:12}{about.removeprefix('about: ')}")
        return 0
    check_name("sweep", args.name, "experiments", known)
    if args.processes is not None and args.processes < 1:
        raise ConfigError(f"--processes {args.processes}: one process or more")
    processes = args.processes or paper.jobs.processes(args.settings)
    return 0 if paper.sweep.run(args.name, args.settings, args.seeds, processes, args.hours) else 75  # EX_TEMPFAIL


@EXPLORE.command("mc3 explore --html explorer --method mc3 --compare wo_consensus",
    option("--html", type=Path, metavar="FOLDER", help="for index.html and a file a clip"),
    option("--single", type=Path, metavar="FILE", help="instead: one file that holds everything, for few clips"),
    option("--method", help="a row of Tables 2 and 3, or align (default: MC3)"),
    option("--compare", metavar="METHOD", help="a second one, linked to it (default: without consensus)"), ONE_SEED,
    option("--clips", type=float, default=500, metavar="N", help="how many, or a share below 1 (default: 500)"),
)  # fmt: skip
def explore(args: Arguments) -> None:
    """Write the explorer of notebooks/explore.ipynb as a page that opens without Jupyter, with the clips it plays."""
    if (args.html is None) == (args.single is None):
        raise ConfigError("give either --html FOLDER or --single FILE")
    method = args.method or methods.with_role("reference")
    compare = methods.with_role("control") if args.compare is None and args.method is None else args.compare or ""
    single = args.single is not None
    extra.explore_html.write(args.settings, args.single or args.html, method, compare, args.seed, args.clips, single)


@EXPLORE.command("mc3 transfer ESC-50",
    option("folder", type=Path, help="the top of ESC-50 or ESC-10, as published"),
    option("--seed", type=int, default=0, help="of the checkpoints (default: 0)"),
    option("--full-size", action="store_true", help="also an untrained encoder of the paper's size: minutes"),
    option("--votes", type=Path, metavar="CSV", help="listeners' votes for action words on ESC's files: no "
           "probes, which take half an hour; only rank the words for each clip, by audio and text encoder"),
)  # fmt: skip
def transfer(args: Arguments) -> None:
    """Probe the audio encoders on real recordings (ESC-10) beside log-mel statistics; or rank action words."""
    check_exists(args.folder, *[args.votes] * bool(args.votes))
    if args.votes:
        if args.full_size:
            raise ConfigError("--full-size goes with the probes, which --votes leaves out; give one of them")
        table = extra.action_words.run(args.settings, args.folder, args.votes, args.seed)
        print(table.drop(columns=["seeds", "clips"]).round(3).to_string(index=False))
        return
    table = extra.transfer.run(args.settings, args.folder, args.seed, args.full_size)
    print(table.drop(columns="clips").round(3).to_string(index=False))


@EXPLORE.command("mc3 narrated --events EPIC_Sounds_validation.csv --narrations EPIC_100_validation.csv",
    option("--events", type=Path, required=True, metavar="CSV", help="EPIC-Sounds' events with classes"),
    option("--narrations", type=Path, required=True, metavar="CSV", help="EPIC-100's narrated actions"),
    option("--verbs", type=Path, metavar="CSV", help="EPIC_100_verb_classes.csv, to check verb classes with"),
    option("--nouns", type=Path, metavar="CSV", help="EPIC_100_noun_classes_v2.csv, likewise"),
    option("--info", type=Path, metavar="CSV", help="EPIC_100_video_info.csv, for the ends of videos"),
    option("--table", type=Path, metavar="CSV", default=Path("data/epic/verb_sounds.csv"),
           help="which sounds an action of each verb class makes (default: data/epic/verb_sounds.csv)"),
    option("--iou", type=float, default=0.1, help="temporal IoU from which a compatible event counts (default: 0.1)"),
    option("--checkpoint", type=Path, metavar="FOLDER", help="score this checkpoint too; needs --audio"),
    option("--audio", type=Path, help="EPIC-Sounds' HDF5 file, or a folder with a file a video"),
    option("--videos", type=Path, metavar="FOLDER", help="the videos, for the audio-video score"),
    option("--out", type=Path, default=Path("figures/epic_narrations.csv"), metavar="CSV",
           help="scores; more is written beside it (default: figures/epic_narrations.csv)"))  # fmt: skip
def narrated(args: Arguments) -> None:
    """Ask whether narrated actions sound, on EPIC-KITCHENS-100's narrations and EPIC-Sounds' events.

    Labels, chance, audio-free baselines and figures need the annotations alone; docs/epic.md explains them.
    """
    check_exists(args.events, args.narrations)
    optional = {n: getattr(args, n) for n in ("verbs", "nouns", "info", "table", "checkpoint", "audio", "videos")}
    extra.narrated.run(args.settings, args.events, args.narrations, args.out, threshold=args.iou, **optional)
    print(f"{args.out} and, beside it, shares by verb, labels, figure and provenance")


@EXPLORE.command("mc3 submission --method mc3 --seed 0 --protocol fine-tune --out mc3.zip",
    option("--method", required=True, help="a row of mc3/methods.py that was probed, or untrained"),
    option("--seed", type=int, required=True, help="one of the profile's seeds"),
    option("--protocol", default="linear-probe", help="linear-probe, linear-probe-official or fine-tune"),
    option("--out", required=True, type=Path, metavar="ZIP", help="where to write it"),
    option("--sls-pt", **LEVEL, default=2, help="pre-training: 0 none, 1 on public images, 2 on public images and "
           "videos, 3 self-supervised on public data, 4 the same with EPIC-KITCHENS' videos, 5 on private data (2)"),
    option("--sls-tl", **LEVEL, default=3, help="training labels: 0 none, 1 of whole videos, 2 single timestamps, 3 "
           "start and end times, 4 also where in the picture, 5 also other knowledge of the classes (3)"),
    option("--sls-td", **LEVEL, default=3, help="training data: 0 none, 1 up to five examples a class, 2 up to a "
           "quarter, 3 training split, 4 training and validation, 5 more than these (3)"),
    option("--t-mod", **LEVEL, default=0, help="what the model was trained on: 0 audio, 1 video, 2 both (0)"),
)  # fmt: skip
def submission(args: Arguments) -> None:
    """Write the scores of EPIC-Sounds' test events as a submission to its recognition challenge."""
    if args.method != "untrained":
        methods.get(args.method)
    levels = {name: getattr(args, name) for name in extra.submission.LEVELS}
    print(extra.submission.write(args.settings, args.method, args.seed, args.protocol, levels, args.out))
