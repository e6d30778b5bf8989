"""Addresses in and out, on fsspec's own file systems: nothing of them is on this machine's disk."""

import json
import os
import re
from pathlib import Path

import fsspec
import pytest

from tests.tiny import content, interrupt_after, llama
from unmergeable.attacks.align import align
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.hub import locate, resolve
from unmergeable.checkpoint.remote import RemotePath, is_url
from unmergeable.checkpoint.remote_staging import JOURNAL, RemoteStaging
from unmergeable.checkpoint.scratch import scratch
from unmergeable.checkpoint.target import RemoteTarget
from unmergeable.cli import main
from unmergeable.errors import InputError, KeyFileError, MissingExtraError, PrecisionError
from unmergeable.keys.key import Key, keygen
from unmergeable.protection.inspect import inspect
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(32))
SHARDS, TENSORS = 3, 21


@pytest.fixture(params=["memory", "file"])
def away(request, tmp_path):
    """An address under which nothing is yet."""
    if request.param == "file":
        return f"file://{tmp_path}/away"
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    return "memory://bucket"


@pytest.fixture
def model(tmp_path):
    folder = llama(tmp_path / "m", shards=SHARDS)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"open weights")
    return folder


@pytest.fixture
def locked(tmp_path, model):
    protect(model, tmp_path / "locked", KEY)
    return content(tmp_path / "locked")


def upload(folder, url):
    for name, data in content(folder).items():
        RemotePath(f"{url}/{name}").write_bytes(data)
    return url


def at(url):
    """Every file at an address, by relative path."""
    place = RemotePath(url)
    return {name: (place / name).read_bytes() for name in place.files()}


@pytest.mark.parametrize(
    ("place", "answer"),
    [("s3://b/m", True), ("hf://o/n", True), ("memory://x", True), ("a/b", False), ("://", False),
     ("C:\\x", False), ("s3:/b", False), ("", False)],
)  # fmt: skip
def test_addresses_are_told_from_paths(place, answer):
    assert is_url(place) is answer


def test_a_folder_is_read_as_it_is_here(away, model):
    there, here = open_folder(locate(f"{upload(model, away)}/")), open_folder(model)
    assert there.tensors == here.tensors
    assert [header.raw for header in there.files] == [header.raw for header in here.files]
    assert (there.config, there.companions) == (here.config, here.companions)
    assert there.left_out == here.left_out == ("pytorch_model.bin",)
    assert inspect(away).bits == inspect(model).bits
    with pytest.raises(InputError, match="Download it first"):
        _ = there.local


@pytest.mark.parametrize("workers", [1, 2])
def test_protect_and_unlock_from_and_to_addresses(away, tmp_path, model, workers):
    source, settings = upload(model, f"{away}/m"), {"line": "x"}
    report = protect(source, f"{away}/out", KEY, settings=settings, workers=workers)
    protect(model, tmp_path / "locked", KEY, settings=settings)
    assert at(f"{away}/out") == content(tmp_path / "locked")
    assert report.left_out == ("pytorch_model.bin",)
    assert unlock(f"{away}/out", f"{away}/back", KEY, workers=workers).exact
    wanted = content(model)
    assert at(f"{away}/back") == {n: wanted[n] for n in wanted if n != "pytorch_model.bin"}
    assert unlock(f"{away}/out", tmp_path / "here", KEY).exact
    assert at(source) == content(model)


def test_the_commands_take_addresses(away, tmp_path, model, capsys):
    upload(model, f"{away}/m")
    keygen(tmp_path / "key")
    key = ["--key", str(tmp_path / "key")]
    assert main(["protect", f"{away}/m", f"{away}/out", *key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == f"{away}/out"
    assert main(["unlock", f"{away}/out", str(tmp_path / "back"), *key]) == 0
    assert main(["inspect", f"{away}/out", "--json"]) == 0


# Completeness


@pytest.mark.parametrize(("tensor", "shards"), [(0, 0), (8, 1), (20, 2)])
def test_an_interrupted_run_is_no_model_and_running_again_goes_on(
    away, model, locked, applied, tensor, shards
):
    with pytest.raises(KeyboardInterrupt):
        protect(model, f"{away}/out", KEY, progress=interrupt_after(tensor))
    left = at(f"{away}/out")
    assert len([name for name in left if name.endswith(".safetensors")]) == shards
    assert (JOURNAL in left) == bool(shards)
    with pytest.raises(InputError, match=r"has no config\.json|is not a folder"):
        open_folder(locate(f"{away}/out"))
    applied.clear()
    protect(model, f"{away}/out", KEY)
    assert len(applied) == TENSORS - 7 * shards
    assert at(f"{away}/out") == locked


def test_the_config_comes_after_everything_and_the_manifest_after_that(
    away, model, locked, monkeypatch
):
    written = []
    plain = RemotePath.write_bytes

    def note(self, data):
        written.append(self.name)
        plain(self, data)

    monkeypatch.setattr(RemotePath, "write_bytes", note)
    protect(model, f"{away}/out", KEY)
    assert written[-2:] == ["config.json", "unmergeable.json"]
    assert set(written[:-2]) == {JOURNAL, "tokenizer.json", "model.safetensors.index.json"}


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "unmergeable.json", JOURNAL])
def test_a_store_that_fails_at_the_end_is_finished_by_running_again(
    away, model, locked, applied, name, monkeypatch
):
    """Before each of the last files in turn; the journal's removal among them."""
    method = "unlink" if name == JOURNAL else "write_bytes"
    plain = getattr(RemotePath, method)
    with monkeypatch.context() as patch:

        def fail(self, *args):
            if self.name == name:
                raise OSError(5, "Service Unavailable", str(self))
            plain(self, *args)

        patch.setattr(RemotePath, method, fail)
        with pytest.raises(InputError, match=r"Service Unavailable.*What is finished is kept"):
            protect(model, f"{away}/out", KEY)
    assert JOURNAL in at(f"{away}/out")
    applied.clear()
    protect(model, f"{away}/out", KEY)
    assert not applied
    assert at(f"{away}/out") == locked


def test_a_refused_weight_leaves_nothing(away, model):
    path = model / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    with pytest.raises(InputError, match="NaN or infinite"):
        protect(model, f"{away}/out", KEY)
    assert at(f"{away}/out") == {}


@pytest.mark.parametrize("name", ["precious", "config.json", "unmergeable.json"])
def test_an_occupied_output_is_refused_and_kept(away, model, name):
    RemotePath(f"{away}/out/{name}").write_bytes(b"precious")
    with pytest.raises(InputError, match="not empty"):
        protect(model, f"{away}/out", KEY)
    assert at(f"{away}/out") == {name: b"precious"}


def test_what_another_piece_of_work_left_is_removed(away, model, locked, applied):
    with pytest.raises(KeyboardInterrupt):
        protect(model, f"{away}/out", Key(bytes(31) + b"\1"), progress=interrupt_after(14))
    applied.clear()
    protect(model, f"{away}/out", KEY)
    assert len(applied) == TENSORS
    assert at(f"{away}/out") == locked


NAMES = [
    "../precious",
    "/precious",
    "a/../../precious",
    "..",
    "",
    ".",
    "a//b",
    "a\\b",
    5,
    None,
    ["a"],
]
OURS = {"format": "unmergeable partial 1", "work": "x", "run": "y", "names": [], "done": {}}
JOURNALS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b"[" + b"[]," * (1 << 21) + b"[]]",
    json.dumps({"work": "x", "run": "y", "names": [], "done": {}}).encode(),
    *(json.dumps({**OURS, "names": [name]}).encode() for name in NAMES),
    *(json.dumps({**OURS, "done": {name: {}}}).encode() for name in NAMES if isinstance(name, str)),
    *(json.dumps({**OURS, field: 5}).encode() for field in OURS),
    *(
        json.dumps({key: value for key, value in OURS.items() if key != field}).encode()
        for field in OURS
    ),
]


@pytest.mark.parametrize("journal", JOURNALS, ids=range(len(JOURNALS)))
def test_a_journal_that_none_of_our_runs_wrote_is_refused(away, model, journal):
    RemotePath(f"{away}/precious").write_bytes(b"precious")
    RemotePath(f"{away}/out/{JOURNAL}").write_bytes(journal)
    with pytest.raises(InputError, match=r"^[^\n]{,700}is damaged, or no journal of this tool"):
        protect(model, f"{away}/out", KEY)
    assert RemotePath(f"{away}/precious").read_bytes() == b"precious"
    assert at(f"{away}/out") == {JOURNAL: journal}


def test_a_journal_that_is_too_large_is_not_read(away, model, monkeypatch):
    monkeypatch.setattr("unmergeable.checkpoint.remote_staging._MOST", 10)
    RemotePath(f"{away}/out/{JOURNAL}").write_bytes(json.dumps(OURS).encode())
    with pytest.raises(InputError, match="too large"):
        protect(model, f"{away}/out", KEY)


def test_files_beside_a_journal_that_it_does_not_name_stay(away, model):
    RemotePath(f"{away}/out/{JOURNAL}").write_bytes(json.dumps(OURS).encode())
    RemotePath(f"{away}/out/thesis.txt").write_bytes(b"dear")
    with pytest.raises(InputError, match=r"no interrupted run left, such as 'thesis\.txt'"):
        protect(model, f"{away}/out", KEY)
    assert at(f"{away}/out")["thesis.txt"] == b"dear"


def test_names_that_lead_out_are_refused(away):
    with RemoteStaging(RemotePath(f"{away}/out"), None) as staging:
        for name in ("../x", "/x", JOURNAL):
            with pytest.raises(InputError, match="is not the name of a file"):
                staging.write_file(name, b"x")


@pytest.mark.parametrize("note", [{}, [], 5, {"read": {}, "written": {}}])
def test_a_note_that_does_not_fit_is_not_believed(away, model, locked, applied, note):
    _interrupted(away, model)
    path = RemotePath(f"{away}/out/{JOURNAL}")
    journal = json.loads(path.read_bytes())
    name = next(iter(journal["done"]))
    journal["done"][name] = note
    path.write_bytes(json.dumps(journal).encode())
    applied.clear()
    protect(model, f"{away}/out", KEY)
    assert len(applied) == TENSORS - 7 * (len(journal["done"]) - 1)
    assert at(f"{away}/out") == locked


@pytest.mark.parametrize("change", [lambda raw: raw[:-1] + b"x", lambda raw: raw[:-8]])
def test_a_finished_shard_that_was_changed_is_made_again(away, model, locked, applied, change):
    _interrupted(away, model)
    path = RemotePath(f"{away}/out/model-00001-of-00003.safetensors")
    path.write_bytes(change(path.read_bytes()))
    applied.clear()
    protect(model, f"{away}/out", KEY)
    assert len(applied) == TENSORS - 7
    assert at(f"{away}/out") == locked


def test_an_input_that_changed_under_the_same_size_and_times_is_read_anew(away, model, applied):
    source = upload(model, f"{away}/m")
    _interrupted(away, source)
    path = RemotePath(f"{source}/model-00001-of-00003.safetensors")
    local = Path(path.url.removeprefix("file://"))
    times = local.stat() if local.is_absolute() else None
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    if times:
        os.utime(local, ns=(times.st_atime_ns, times.st_mtime_ns))
    applied.clear()
    protect(source, f"{away}/out", KEY)
    assert len(applied) == TENSORS


def test_work_on_inputs_without_a_mark_starts_anew(away, tmp_path, model, applied, monkeypatch):
    source, settings = upload(model, f"{away}/m"), {"line": "x"}
    protect(model, tmp_path / "locked", KEY, settings=settings)
    monkeypatch.setattr("unmergeable.checkpoint.remote._MARKS", ())
    with pytest.raises(KeyboardInterrupt):
        protect(source, f"{away}/out", KEY, settings=settings, progress=interrupt_after(14))
    assert at(f"{away}/out") == {}
    protect(source, f"{away}/out", KEY, settings=settings)
    assert at(f"{away}/out") == content(tmp_path / "locked")
    salts = set()
    for name in "ab":  # nothing tells them from others, so that chance must
        report = protect(source, f"{away}/{name}", KEY)
        salts.add(report.manifest.chain[0].salt)
    assert len(salts) == 2


def _interrupted(away, model):
    with pytest.raises(KeyboardInterrupt):
        protect(model, f"{away}/out", KEY, workers=1, progress=interrupt_after(14))


def test_what_a_run_that_died_while_publishing_wrote_is_known_to_the_next_ones(
    away, model, locked, monkeypatch
):
    """Also if the second one dies as well, before it has written as much again."""
    plain = RemotePath.write_bytes

    def fail(self, data):
        if self.name == "config.json":
            raise OSError(5, "Service Unavailable", str(self))
        plain(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "write_bytes", fail)
        with pytest.raises(InputError, match="Service Unavailable"):
            protect(model, f"{away}/out", KEY)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteStaging, "publish", _die)
        with pytest.raises(KeyboardInterrupt):
            protect(model, f"{away}/out", KEY)
    assert "tokenizer.json" in at(f"{away}/out")
    protect(model, f"{away}/out", KEY)
    assert at(f"{away}/out") == locked


def _die(self):
    raise KeyboardInterrupt


def test_of_two_runs_the_first_one_stops(away, model, locked):
    second = []

    def again(done):
        if not second:
            second.append(protect(model, f"{away}/out", KEY))

    with pytest.raises(InputError, match="another run"):
        protect(model, f"{away}/out", KEY, workers=1, progress=again)
    assert at(f"{away}/out") == locked


def test_work_without_a_name_is_never_kept(away):
    with (
        pytest.raises(KeyboardInterrupt),
        RemoteStaging(RemotePath(f"{away}/out"), None) as staging,
    ):
        staging.begin(["a"])
        RemotePath(f"{away}/out/a").write_bytes(b"a")
        staging.finish("a", {})
        raise KeyboardInterrupt
    assert at(f"{away}/out") == {}


# Failures


def test_an_input_that_changes_is_noticed(away, model):
    source = upload(model, f"{away}/m")
    path = RemotePath(f"{source}/model-00002-of-00003.safetensors")
    raw = path.read_bytes()

    def change(done):
        if path.read_bytes() == raw:
            path.write_bytes(raw[:-4] + bytes(4))
            if not source.startswith("memory"):
                os.utime(path.url.removeprefix("file://"), (1, 1))

    with pytest.raises(InputError, match=r"model-00002.*was changed while"):
        protect(source, f"{away}/out", KEY, workers=1, progress=change)
    assert at(f"{away}/out") == {}


def test_a_read_that_fails_is_named(away, model, monkeypatch):
    source = upload(model, f"{away}/m")
    plain = RemotePath.read_range
    count = 0

    def fail(self, start, stop):
        nonlocal count
        count += self.suffix == ".safetensors"
        if count > 2 * SHARDS + 8:  # headers first
            raise OSError(5, "Service Unavailable", str(self))
        return plain(self, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "read_range", fail)
        with pytest.raises(InputError, match=rf"{source}/model-0.*Service Unavailable.*kept"):
            protect(source, f"{away}/out", KEY, workers=1)
    protect(source, f"{away}/out", KEY)
    assert unlock(f"{away}/out", f"{away}/back", KEY).exact


def test_a_file_that_ends_too_early_is_named(away, model, monkeypatch):
    source = upload(model, f"{away}/m")
    plain = RemotePath.read_range

    def cut(self, start, stop):
        return plain(self, start, stop)[: -1 if start > 4096 else None]

    monkeypatch.setattr(RemotePath, "read_range", cut)
    with pytest.raises(InputError, match="ends too early"):
        protect(source, f"{away}/out", KEY)


def test_what_a_library_raises_becomes_a_sentence(away, model, monkeypatch):
    source = upload(model, f"{away}/m")
    system, _ = RemotePath(source).reach()

    def fail(path, **kwargs):
        raise RuntimeError("token has expired\nmore")

    monkeypatch.setattr(system, "cat_file", fail)
    with pytest.raises(InputError, match=r"token has expired"):
        protect(source, f"{away}/out", KEY)


def test_a_shard_needs_room_on_this_disk(away, model, monkeypatch):
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"needs .* GB, its disk has 0\.00 GB free"):
        protect(model, f"{away}/out", KEY)


def test_scratch_files_go(away, model, monkeypatch, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    protect(model, f"{away}/out", KEY)
    with pytest.raises(PrecisionError), RemoteTarget(RemotePath(f"{away}/x")).making("a") as file:
        file.write_bytes(b"half")
        raise PrecisionError("no")
    assert not list(scratch.iterdir())
    assert at(f"{away}/x") == {}


def test_scratch_files_of_a_run_that_was_killed_go_and_of_one_at_work_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("unmergeable.checkpoint.scratch._YOUNG", -1)
    dead, link = (tmp_path / f"unmergeable-scratch-{name}" for name in ("dead", "link"))
    dead.mkdir()
    (dead / "model.safetensors").write_bytes(b"open weights")
    (tmp_path / "theirs").mkdir()
    link.symlink_to("theirs")
    with scratch() as first:
        (first / "a").write_bytes(b"a")
        with scratch() as second:
            left = {path.name for path in tmp_path.iterdir()}
    assert left == {first.name, second.name, link.name, "theirs"}
    assert {path.name for path in tmp_path.iterdir()} == {link.name, "theirs"}


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("nonsense://a/b", InputError, "nonsense://a/b cannot be reached"),
        ("gdrive://a/b", MissingExtraError, "needs a library that is not installed"),
        ("memory://nothing/here", InputError, "is not a folder"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(url, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        protect(url, tmp_path / "out", KEY)


def test_commands_that_need_a_folder_here_say_so(away, model, tmp_path):
    source = upload(model, f"{away}/m")
    with pytest.raises(InputError, match=re.escape(f"{source} is not on this machine")):
        resolve(source)
    with pytest.raises(InputError, match="is not on this machine"):
        align(source, tmp_path / "out", base=model)


def test_a_wrong_key_is_refused(away, model, locked):
    protect(model, f"{away}/out", KEY)
    with pytest.raises(KeyFileError):
        unlock(f"{away}/out", f"{away}/back", Key(bytes(31) + b"\1"))
    assert at(f"{away}/back") == {}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_upload_that_fails_costs_its_shard_alone(
    away, model, locked, applied, workers, failing, monkeypatch
):
    plain = RemotePath.upload

    def fail(self, file):
        if self.name == f"model-{failing:05}-of-{SHARDS:05}.safetensors":
            raise OSError(5, "Service Unavailable", str(self))
        plain(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "upload", fail)
        with pytest.raises(InputError, match=rf"{away}/out/model-0000{failing}.*Unavailable"):
            protect(model, f"{away}/out", KEY, workers=workers)
    kept = [name for name in at(f"{away}/out") if name.endswith(".safetensors")]
    # Beside an upload the next shard is made; it is brought there, too, if it was finished.
    assert failing - 1 <= len(kept) <= min(failing, SHARDS - 1)
    applied.clear()
    protect(model, f"{away}/out", KEY)
    assert len(applied) == TENSORS - 7 * len(kept)
    assert at(f"{away}/out") == locked
