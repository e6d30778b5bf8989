"""What stands where an output would grow is not touched unless this tool made it, no link in it is
followed, and nothing is taken over that is not what the journal says."""

import json
import os
import shutil
import stat

import pytest

from tests.tiny import content, interrupt_after, llama
from unmergeable.checkpoint.journal import JOURNAL, BusyError, Journal
from unmergeable.checkpoint.staging import Staging
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(32))
TENSORS, SHARDS = 21, 3
FIRST = f"model-00001-of-{SHARDS:05}.safetensors"
SECOND = f"model-00002-of-{SHARDS:05}.safetensors"
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's files")


@pytest.fixture
def model(tmp_path):
    folder = llama(tmp_path / "m", shards=SHARDS)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def precious(tmp_path):
    folder = tmp_path / "precious"
    (folder / "deep").mkdir(parents=True)
    (folder / "thesis.txt").write_text("dear")
    (folder / "deep" / "x").write_text("dear")
    return folder


def interrupted(model, out, tensors=14, work=protect):
    """Leaves two finished shards and an unfinished one."""
    with pytest.raises(KeyboardInterrupt):
        work(model, out, KEY, workers=1, progress=interrupt_after(tensors))


def snapshot(folder):
    """Mode, target and content of everything, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        what = path.readlink() if path.is_symlink() else status.st_size
        if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20:
            what = path.read_bytes()
        found[str(path.relative_to(folder))] = (status.st_mode, what)
    return found


# What is not ours


def _link(partial, precious):
    partial.symlink_to(precious)


def _loop(partial, precious):
    partial.symlink_to(partial.name)


def _file(partial, precious):
    partial.write_text("dear")


def _fifo(partial, precious):
    os.mkfifo(partial)


def _link_to_one_of_ours(partial, precious):
    with Staging(partial.parent / "other", "work") as staging:
        staging.write_file("a", b"a")
        shutil.copytree(staging.path, partial.parent / "copy")
    partial.symlink_to("copy")


def _own_folder(partial, precious):
    (partial / "mine").mkdir(parents=True)
    (partial / "mine" / "x").write_text("dear")


def _journal_is(make):
    def sabotage(partial, precious):
        partial.mkdir()
        make(partial / JOURNAL, precious / "thesis.txt")

    return sabotage


def _huge(journal, victim):
    with journal.open("wb") as file:
        file.truncate(1 << 40)


def _huge_of_ours(journal, victim):
    with journal.open("wb") as file:
        file.write(b"unmergeable partial 1 work\n")
        file.truncate(1 << 40)


def _empty_beside_a_file(partial, precious):
    partial.mkdir()
    (partial / JOURNAL).touch()
    (partial / "x").write_text("dear")


def _their_publishing(partial, precious):
    (partial.parent / ".out.publish").write_text("dear")


def _old_publishing(partial, precious):
    """A journal of ours beside, of another folder than the one that is there."""
    partial.mkdir()
    (partial / "x").write_text("dear")
    beside = partial.parent / ".out.publish"
    beside.write_text("unmergeable partial 1 work\npublishing 1\n")


def _of_another_user(partial, precious):
    partial.mkdir()
    os.chown(partial, 12345, 12345)


def _journal_of_another_user(partial, precious):
    partial.mkdir()
    (partial / JOURNAL).write_text("unmergeable partial 1 x\n")
    os.chown(partial / JOURNAL, 12345, 12345)


FOREIGN = {
    "link": _link,
    "loop": _loop,
    "file": _file,
    "fifo": _fifo,
    "link to one of ours": _link_to_one_of_ours,
    "own folder": _own_folder,
    "journal a link": _journal_is(lambda journal, victim: journal.symlink_to(victim)),
    "journal a hard link": _journal_is(lambda journal, victim: journal.hardlink_to(victim)),
    "journal a dangling link": _journal_is(lambda journal, victim: journal.symlink_to("new")),
    "journal a fifo": _journal_is(lambda journal, victim: os.mkfifo(journal)),
    "journal a folder": _journal_is(lambda journal, victim: journal.mkdir()),
    "journal is text": _journal_is(lambda journal, victim: journal.write_text("dear diary\n" * 9)),
    "journal is short": _journal_is(lambda journal, victim: journal.write_text("dear")),
    "journal of old": _journal_is(lambda journal, victim: journal.write_text("ab" * 32 + "\n")),
    "journal huge": _journal_is(_huge),
    "journal huge and ours": _journal_is(_huge_of_ours),
    "empty journal beside a file": _empty_beside_a_file,
    "their publishing": _their_publishing,
    "old publishing": _old_publishing,
    "another user's": pytest.param(_of_another_user, marks=root),
    "another user's journal": pytest.param(_journal_of_another_user, marks=root),
}


@pytest.mark.parametrize("sabotage", FOREIGN.values(), ids=FOREIGN)
def test_what_this_tool_did_not_make_is_refused_and_stays(tmp_path, model, precious, sabotage):
    sabotage(tmp_path / ".out.partial", precious)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"^[^\n]{1,600}$") as refused:
        protect(model, tmp_path / "out", KEY)
    assert "Move it away, or choose another output" in str(refused.value)
    if sabotage is _old_publishing:
        before.pop(".out.publish")  # ours, and of no folder any more
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("target", ["out", "precious", "precious/thesis.txt"])
def test_an_output_that_is_a_link_never_costs_what_it_leads_to(tmp_path, model, precious, target):
    (tmp_path / "out").symlink_to(target)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"leads nowhere|not an empty folder"):
        protect(model, tmp_path / "out", KEY)
    assert snapshot(tmp_path) == before


# Planted in a folder of ours


def _shard_is_a_link(partial, precious):
    (partial / FIRST).rename(precious / FIRST)
    (partial / FIRST).symlink_to(precious / FIRST)


def _shard_is_a_hard_link(partial, precious):
    os.link(partial / FIRST, precious / FIRST)


def _missing_shard_is_a_link(partial, precious):
    (partial / f"model-00003-of-{SHARDS:05}.safetensors").symlink_to(precious / "thesis.txt")


def _missing_shard_is_a_folder(partial, precious):
    (partial / f"model-00003-of-{SHARDS:05}.safetensors").mkdir()


def _companion_is_a_link(partial, precious):
    (partial / "config.json").symlink_to(precious / "thesis.txt")


def _companion_is_a_hard_link(partial, precious):
    os.link(precious / "thesis.txt", partial / "config.json")


def _subfolder_is_a_link(partial, precious):
    (partial / "1_Pooling").symlink_to(precious)


def _subfolder_holds_a_link(partial, precious):
    (partial / "1_Pooling").mkdir()
    (partial / "1_Pooling" / "deep").symlink_to(precious / "deep")
    (partial / "1_Pooling" / "config.json").symlink_to(precious / "thesis.txt")


def _note(line):
    def plant(partial, precious):
        with (partial / JOURNAL).open("a") as journal:
            journal.write(f"{line}\n")

    plant.__name__ = line[:40]
    return plant


NOTE = {"read": {}, "written": {}}
LINES = [
    json.dumps([name, NOTE])
    for name in (
        "../precious/thesis.txt",
        "/etc/passwd",
        "..",
        "",
        ".",
        "x\0y",
        "a" * 5000,
        JOURNAL,
    )
]
LINES += [
    json.dumps([FIRST, note])
    for note in (
        {},
        [],
        1,
        "x",
        NOTE,
        {"read": [], "written": {}},
        {"read": NOTE, "written": NOTE},
        {**NOTE, "more": 1},
    )
]
LINES += ["[" * 100_000, "5", '["a"]', '{"a": 1}', "[1, 2]", '[["a"], {}]', "\x00\xff", '["a", -1]']
LINES += [f'["{FIRST}", null]', "publishing 5"]
PLANTS = [
    _shard_is_a_link, _shard_is_a_hard_link, _missing_shard_is_a_link, _missing_shard_is_a_folder,
    _companion_is_a_link, _companion_is_a_hard_link, _subfolder_is_a_link, _subfolder_holds_a_link,
    *map(_note, LINES),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_what_was_planted_is_neither_followed_nor_believed(
    tmp_path, model, precious, undisturbed, plant
):
    interrupted(model, tmp_path / "out")
    plant(tmp_path / ".out.partial", precious)
    before = snapshot(precious)
    protect(model, tmp_path / "out", KEY)
    assert snapshot(precious) == before
    assert content(tmp_path / "out") == undisturbed
    assert all(
        path.is_dir() or path.lstat().st_nlink == 1 for path in (tmp_path / "out").rglob("*")
    )
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "config.json", "1_Pooling"])
def test_a_link_planted_while_a_run_is_at_work_is_replaced(
    tmp_path, model, precious, undisturbed, name
):
    def plant(done):
        place = tmp_path / ".out.partial" / name
        if not os.path.lexists(place):
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(precious / ("thesis.txt" if name.endswith("json") else ""))

    before = snapshot(precious)
    protect(model, tmp_path / "out", KEY, progress=plant)
    assert snapshot(precious) == before
    assert content(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", ".", "a\0b", JOURNAL])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with Staging(tmp_path / "out", None) as staging:
        with pytest.raises(InputError, match="is not the name of a file in a model folder"):
            staging.write_file(name, b"x")
        staging.write_file("a", b"x")
        staging.publish()
    assert content(tmp_path) == {"out/a": b"x"}


# What is taken over


def _flip(path):
    """Other bytes under the same size and times."""
    status, raw = path.stat(), bytearray(path.read_bytes())
    raw[-1] ^= 1
    with path.open("r+b") as file:
        file.write(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _other_header(path):
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"pt"', b'"tp"', 1))


def _cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)


def _longer(path):
    with path.open("ab") as file:
        file.write(b"more")


def _zeros(path):
    """As a power cut may leave a file: its size is there, its bytes are not."""
    path.write_bytes(bytes(path.stat().st_size))


def _another_shard(path):
    shutil.copyfile(path.parent / SECOND, path)


def _gone(path):
    path.unlink()


@pytest.mark.parametrize(
    "damage", [_flip, _other_header, _cut, _longer, _zeros, _another_shard, _gone]
)
@pytest.mark.parametrize("work", [protect, unlock])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_finished_shard_that_was_changed_is_made_again(
    tmp_path, model, applied, damage, work, workers
):
    given = model
    if work is unlock:
        given = tmp_path / "locked"
        protect(model, given, KEY)
    work(given, tmp_path / "wanted", KEY)
    interrupted(given, tmp_path / "out", work=work)
    damage(tmp_path / ".out.partial" / FIRST)
    applied.clear()
    work(given, tmp_path / "out", KEY, workers=workers)
    assert len(applied) == 2 * TENSORS // SHARDS
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


def test_a_digest_that_was_changed_in_the_journal_costs_its_shard(
    tmp_path, model, undisturbed, applied
):
    interrupted(model, tmp_path / "out")
    journal = tmp_path / ".out.partial" / JOURNAL
    lines = journal.read_text().splitlines()
    (index,) = (n for n, line in enumerate(lines) if FIRST in line)
    name, note = json.loads(lines[index])
    note["file"] = "0" * 64
    lines[index] = json.dumps([name, note])
    journal.write_text("\n".join(lines) + "\n")
    applied.clear()
    protect(model, tmp_path / "out", KEY)
    assert len(applied) == 2 * TENSORS // SHARDS
    assert content(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("changed", [FIRST, SECOND, f"model-00003-of-{SHARDS:05}.safetensors"])
def test_an_input_that_changed_under_the_same_size_and_times_is_read_anew(
    tmp_path, model, applied, changed
):
    interrupted(model, tmp_path / "out")
    _flip(model / changed)
    applied.clear()
    protect(model, tmp_path / "out", KEY)
    assert len(applied) == TENSORS
    protect(model, tmp_path / "wanted", KEY)
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


def test_an_input_that_was_replaced_under_the_same_size_and_times_is_read_anew(
    tmp_path, model, applied
):
    path, other = model / FIRST, tmp_path / "other"
    shutil.copy2(path, other)
    _flip(other)
    interrupted(model, tmp_path / "out")
    other.replace(path)
    applied.clear()
    protect(model, tmp_path / "out", KEY)
    assert len(applied) == TENSORS


def test_an_input_that_changes_under_the_same_size_and_times_while_it_is_read_is_noticed(
    tmp_path, model
):
    def change(done):
        _flip(model / FIRST)

    with pytest.raises(InputError, match=r"model-00001.*was changed while"):
        protect(model, tmp_path / "out", KEY, workers=1, progress=change)
    assert not list(tmp_path.glob("*out*"))


def test_taking_over_twice_keeps_what_was_finished_in_between(tmp_path, model, applied):
    out = tmp_path / "out"
    for expected in (21, 14, 7):
        applied.clear()
        interrupted(model, out, tensors=TENSORS // SHARDS)
        assert len(applied) <= expected
    protect(model, out, KEY)
    protect(model, tmp_path / "wanted", KEY)
    assert content(out) == content(tmp_path / "wanted")


# Whose it is


def test_what_grows_is_its_owners_alone_and_what_is_published_is_not(tmp_path, model):
    protect(model, tmp_path / "locked", KEY)
    seen = set()

    def look(done):
        partial = tmp_path / ".out.partial"
        seen.add((stat.S_IMODE(partial.stat().st_mode), _mode(partial / JOURNAL)))

    before = os.umask(0o022)
    try:
        unlock(tmp_path / "locked", tmp_path / "out", KEY, progress=look)
    finally:
        os.umask(before)
    assert seen == {(0o700, 0o600)}
    assert _mode(tmp_path / "out") == 0o755
    assert _mode(tmp_path / "out" / FIRST) == 0o644


def test_a_folder_that_was_open_to_all_is_closed_again(tmp_path, model):
    interrupted(model, tmp_path / "out")
    partial = tmp_path / ".out.partial"
    partial.chmod(0o777)
    interrupted(model, tmp_path / "out", tensors=0)
    assert _mode(partial) == 0o700


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_special_bits_of_the_folder_above_are_kept(tmp_path, model):
    tmp_path.chmod(0o2755)
    with Staging(tmp_path / "out", None) as staging:
        staging.write_file("a", b"x")
        staging.publish()
    tmp_path.chmod(0o755)
    assert (tmp_path / "out").stat().st_mode & stat.S_ISGID


# Between complete and published


@pytest.mark.parametrize("moment", ["set_usual_mode", "rename"])
def test_a_failure_while_publishing_is_finished_by_the_next_run(
    tmp_path, model, undisturbed, applied, monkeypatch, moment
):
    def fail(*args):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        if moment == "rename":
            patch.setattr("pathlib.Path.rename", fail)
        else:
            patch.setattr(f"unmergeable.checkpoint.staging.{moment}", fail)
        with pytest.raises(InputError, match="Input/output error"):
            protect(model, tmp_path / "out", KEY)
    assert (tmp_path / ".out.publish").exists() and _mode(tmp_path / ".out.partial") == 0o700
    applied.clear()
    protect(model, tmp_path / "out", KEY)
    assert not applied
    assert content(tmp_path / "out") == undisturbed
    assert not list(tmp_path.glob(".*"))


def test_the_journal_of_a_run_that_was_killed_when_it_had_published_goes(tmp_path, model):
    left = tmp_path / ".out.publish"
    left.write_text("unmergeable partial 1 work\npublishing 1\n")
    protect(model, tmp_path / "out", KEY)
    assert not left.exists()
    left.write_text("unmergeable partial 1 work\npublishing 1\n")
    with pytest.raises(InputError, match="not an empty folder"):
        protect(model, tmp_path / "out", KEY)
    assert not left.exists()


def test_a_lock_on_a_journal_that_is_published_meanwhile_is_no_lock(tmp_path):
    """The descriptor is of a file that stands nowhere any more, or elsewhere."""
    path = tmp_path / "journal"
    for change in (path.unlink, lambda: path.rename(tmp_path / "elsewhere")):
        path.write_text("unmergeable partial 1 work\n")
        descriptor = os.open(path, os.O_RDWR)
        change()
        with pytest.raises(BusyError):
            Journal(descriptor, path, None, os.geteuid())
