"""The import rule: nothing imports what stands above it, readers do not import makers, and there is no circle."""

from conftest import ROOT

from mc3.files import parse_module

LAYERS = (
    ("errors", "files", "progress", "pools"),
    ("config", "methods", "losses", "evaluate"),
    ("encoders", "model"),
    ("store", "objectives", "data", "checkpoint", "cost", "windows", "discover", "index",
     "pretrained"),
    ("train", "embed", "paper.probe", "paper.priors", "paper.tables", "paper.findings", "paper.bootstrap",
     "paper.claims", "paper.plots", "paper.measure", "paper.provenance", "paper.pretrain", "paper.foreign",
     "paper.later", "paper.page", "paper.players"),
    ("paper.notebook", "paper.compare", "paper.repro", "paper.report", "paper.sweep",
     "paper.jobs", "paper.retrain"),
    ("world", "extra"),
    ("cli",),
)  # fmt: skip
MAKERS = ("train", "embed", "paper.probe")
READERS = ("store", "paper.tables", "paper.findings", "paper.bootstrap", "paper.claims", "paper.plots", "paper.measure")


def imports() -> dict[str, set[str]]:
    """Every module below mc3 and those of mc3 that it imports, names relative to the package; packages' faces apart."""
    files = sorted((ROOT / "mc3").rglob("*.py"))
    dotted = [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]
    found = {}
    for name in sorted(set(dotted) - {"mc3"}):
        below = {other for other in parse_module(name)[1] if not f"{name}.".startswith(f"{other}.")}
        found[name.removeprefix("mc3.")] = {other.removeprefix("mc3.") for other in below - {"mc3"}}
    return found


def layer(name: str) -> int:
    places = [n for n, names in enumerate(LAYERS) if any(name == top or name.startswith(f"{top}.") for top in names)]
    assert len(places) == 1 or name == "paper", f"{name} is in no layer, or in several"
    return places[0] if places else 0


def test_no_module_imports_from_a_layer_above_its_own():
    upward = {(a, b) for a, own in imports().items() for b in own if layer(b) > layer(a)}
    assert upward == set()


def test_readers_do_not_import_makers_and_nothing_but_the_command_line_imports_world_or_extra():
    for name, own in imports().items():
        room = name.split(".")[0]
        if name.startswith(READERS):
            assert own.isdisjoint(MAKERS), name
        others = {other for other in own if other.split(".")[0] in ("world", "extra", "cli")} - {room}
        assert room == "cli" or {o for o in others if o.split(".")[0] != room} == set(), name
        if room == "world":
            below = {o.split(".")[0] for o in own - {"data", "data.encode"}}  # its MP4 writer, and the package of that
            assert below <= {"world", "errors", "files", "progress", "pools", "config"}, name


def test_there_is_no_circle():
    left = imports()
    while ready := {name for name, own in left.items() if not own & left.keys()}:
        left = {name: own for name, own in left.items() if name not in ready}
    assert left == {}
