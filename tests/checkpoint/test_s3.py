"""S3, as moto's server plays it, with a proxy before it that loses and cuts what passes."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from itertools import cycle

import pytest

from tests.checkpoint.faulty_proxy import FAULTS, FaultyProxy
from tests.tiny import content, llama
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.hub import locate
from unmergeable.checkpoint.local_copy import local_copy
from unmergeable.checkpoint.remote import RemotePath
from unmergeable.checkpoint.remote_staging import JOURNAL
from unmergeable.cli import main
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.keys.key import Key, keygen, load_key
from unmergeable.protection.protect import protect, unlock
from unmergeable.verification.files import verify_files
from unmergeable.verification.weight_comparison import compare_weights

moto = pytest.importorskip("moto.server", reason="moto's S3 server is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")

KEY = Key(bytes(32))
LINE = {"line": "x"}  # its locks are the same wherever a model lies
SHARDS, TENSORS = 2, 12
LIES = "short"  # no library notices that, and so none tries again


class Store:
    """What is in moto's bucket, past the proxy and any library."""

    url = "s3://bucket"

    def __init__(self):
        from moto.s3.models import s3_backends

        self._backend = s3_backends["123456789012"]["aws"]

    def empty(self):
        self._backend.reset()
        self._backend.create_bucket("bucket", "us-east-1")

    def put(self, files, folder):
        for name, data in files.items():
            self._backend.put_object("bucket", f"{folder}/{name}", data)
        return f"{self.url}/{folder}"

    def at(self, folder):
        found = self._backend.buckets["bucket"].keys.items()
        return {name[len(folder) + 1 :]: k.value for name, k in found if name.startswith(folder)}

    def unfinished(self):
        """Uploads in parts that nobody put together or gave up."""
        return self._backend.buckets["bucket"].multiparts

    def has_model(self, folder):
        files = self.at(folder)
        return "config.json" in files and JOURNAL not in files


@pytest.fixture(scope="module")
def proxy():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    proxy = FaultyProxy(server.get_host_and_port()[1])
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield proxy
    proxy.shutdown()
    thread.join()
    proxy.server_close()
    server.stop()


@pytest.fixture
def s3(proxy, monkeypatch):
    """An empty bucket, of which libraries ask for everything once: failing is left to us."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}",
        "ACCESS_KEY_ID": "x",
        "SECRET_ACCESS_KEY": "x",
        "DEFAULT_REGION": "us-east-1",
        "MAX_ATTEMPTS": "1",
        "EC2_METADATA_DISABLED": "true",
        "CONFIG_FILE": os.devnull,
        "SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    proxy.reset()
    store = Store()
    store.empty()
    yield store
    proxy.reset()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = llama(tmp_path_factory.mktemp("s3") / "m", shards=SHARDS, num_hidden_layers=1)
    (folder / "tokenizer.json").write_text(json.dumps({"words": list(range(500))}))
    (folder / "pytorch_model.bin").write_bytes(b"open weights")
    return folder


@pytest.fixture(scope="module")
def opened(model):
    """What unlocking gives back."""
    return {name: data for name, data in content(model).items() if name != "pytorch_model.bin"}


@pytest.fixture(scope="module")
def locked(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("locked") / "l"
    protect(model, out, KEY, settings=LINE)
    return content(out)


def test_every_command_works_there(s3, tmp_path, model, opened):
    source, key, new = s3.put(content(model), "m"), tmp_path / "key", tmp_path / "new"
    keygen(key)
    keygen(new)
    keys = ["--key", str(key)]
    assert main(["inspect", source, "--json"]) == 0
    assert main(["protect", source, f"{s3.url}/out", *keys]) == 0
    assert main(["verify", "--files", f"{s3.url}/out", *keys]) == 0
    assert main(["unlock", f"{s3.url}/out", f"{s3.url}/back", *keys]) == 0
    assert s3.at("back") == opened
    assert main(["relock", f"{s3.url}/out", f"{s3.url}/next", *keys, "--new-key", str(new)]) == 0
    locked = open_folder(locate(f"{s3.url}/next"))
    weights = compare_weights(open_folder(locate(source)), locked, load_key(new))
    assert (weights.identical, weights.same) == (TENSORS, True)
    assert unlock(f"{s3.url}/next", tmp_path / "here", load_key(new)).exact
    assert content(tmp_path / "here") == opened
    s3.put({"tokenizer.json": b"{}"}, "next")
    assert main(["verify", "--files", f"{s3.url}/next"]) == 1
    assert s3.at("m") == content(model)


def test_a_store_that_fails_now_and_then_is_worn_down(s3, proxy, model, locked, monkeypatch):
    """By what the libraries try again, at every seventh request, with one fault after the other."""
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 3)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    monkeypatch.setattr("random.random", lambda: 0.01)  # the part of a second that it waits
    s3fs.S3FileSystem.clear_instance_cache()
    faults = cycle(fault for fault in FAULTS if fault != LIES)
    source = s3.put(content(model), "m")
    proxy.reset(lambda method, path, number: "" if number % 7 else next(faults))
    protect(source, f"{s3.url}/out", KEY, settings=LINE)
    assert len(proxy.seen) > 70
    assert s3.at("out") == locked
    assert s3.at("m") == content(model)


@pytest.mark.parametrize(
    ("first", "fault"), [(1, "error"), (8, "drop"), (13, "lost"), (17, "error"), (22, "lost")]
)
def test_an_output_is_complete_or_none_whenever_the_store_goes_away(
    s3, proxy, model, locked, first, fault
):
    """From this request on; then it is well again, and the same command goes on."""
    proxy.reset(lambda method, path, number: fault if number >= first else "")
    with pytest.raises(UnmergeableError, match=rf"{s3.url}/out"):
        protect(model, f"{s3.url}/out", KEY, settings=LINE, workers=1)
    assert len(proxy.seen) >= first
    proxy.reset()
    assert not s3.has_model("out") or s3.at("out") == locked
    if not s3.has_model("out"):
        protect(model, f"{s3.url}/out", KEY, settings=LINE, workers=1)
    assert s3.at("out") == locked


@pytest.mark.parametrize(("method", "which", "fault"), [("PUT", 2, "error"), ("POST", 2, "lost")])
def test_an_upload_in_parts_that_fails_is_no_file_and_leaves_no_parts(
    s3, proxy, model, locked, method, which, fault, monkeypatch
):
    """As s3fs makes them of large shards: in the middle, and when the parts are put together."""
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, **others: 9000)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    asked = []

    def fails_once(what, path, number):
        if (what, path[-11:]) != (method, "safetensors"):
            return ""
        asked.append(path)
        return fault if len(asked) == which else ""

    proxy.reset(fails_once)
    with pytest.raises(InputError, match=rf"{s3.url}/out/model-00001"):
        protect(model, f"{s3.url}/out", KEY, settings=LINE, workers=1)
    assert len(asked) >= which
    assert not s3.has_model("out")
    assert not s3.unfinished()
    protect(model, f"{s3.url}/out", KEY, settings=LINE, workers=1)
    assert s3.at("out") == locked


READS = {
    "unlock": lambda url: unlock(f"{url}/l", f"{url}/out", KEY),
    "files": lambda url: verify_files(f"{url}/l"),
    "weights": lambda url: compare_weights(*(open_folder(locate(f"{url}/{n}")) for n in "ml"), KEY),
    "copy": lambda url: local_copy(open_folder(locate(f"{url}/l"))).__enter__(),
}


@pytest.mark.parametrize(
    ("work", "end", "fault"),
    [
        ("unlock", "unmergeable.json", "error"),
        ("unlock", "tokenizer.json", "short"),
        ("unlock", "00002-of-00002.safetensors", "cut"),
        ("files", "/bucket", "error"),
        ("files", "00002-of-00002.safetensors", "short"),
        ("weights", "unmergeable.json", "drop"),
        ("copy", "tokenizer.json", "short"),
    ],
)
def test_reads_that_fail_are_errors_and_no_answers(s3, proxy, opened, locked, work, end, fault):
    s3.put(opened, "m")
    s3.put(locked, "l")
    hit = []

    def rule(method, path, number):
        hits = path.rstrip("/").endswith(end) and (method == "GET" or fault in ("drop", "error"))
        hit.extend([path] * hits)
        return fault if hits else ""

    proxy.reset(rule)
    try:
        READS[work](s3.url)
    except UnmergeableError as error:
        assert s3.url in str(error) or "too early" in str(error)
    else:
        assert not hit
    assert not hit or not s3.has_model("out")


def test_a_store_that_does_not_answer_is_not_one_that_has_no_file(s3, proxy):
    place = RemotePath(f"{s3.url}/m/a")
    assert not place.exists()
    s3.put({"a": b"a"}, "m")
    assert place.exists()
    proxy.reset(lambda method, path, number: "error")
    for ask in (place.exists, place.is_file):
        with pytest.raises(OSError, match=place.url):
            ask()


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_a_file_of_which_less_came_is_not_taken_for_whole(s3, proxy, fault):
    s3.put({"a": b"abcdefgh"}, "m")
    proxy.reset(lambda method, path, number: fault)
    with pytest.raises(OSError, match=rf"{s3.url}/m/a"):
        RemotePath(f"{s3.url}/m/a").read_bytes()


@pytest.mark.parametrize(
    ("method", "name"),
    [("PUT", "model-00002-of-00002.safetensors"), ("DELETE", JOURNAL)],
)
def test_a_run_that_is_killed_is_no_model_and_running_again_goes_on(
    s3, proxy, tmp_path, model, applied, method, name
):
    """Killed while the store has its request; what came of that it never hears."""
    source, key = s3.put(content(model), "m"), keygen(tmp_path / "key")
    protect(model, tmp_path / "locked", key, settings=LINE)
    locked = content(tmp_path / "locked")
    run = []

    def rule(what, path, number):
        if (what, path) != (method, f"/bucket/out/{name}"):
            return ""
        run[0].send_signal(signal.SIGKILL)
        return "lost" if method == "DELETE" else "drop"

    proxy.reset(rule)
    command = [sys.executable, "-m", "unmergeable", "protect", source, f"{s3.url}/out"]
    run.append(subprocess.Popen([*command, "--key", str(tmp_path / "key"), "--set", "line=x"]))
    assert run[0].wait(60) == -signal.SIGKILL
    proxy.reset()
    assert s3.has_model("out") == (method == "DELETE")
    if method == "PUT":
        applied.clear()
        protect(source, f"{s3.url}/out", key, settings=LINE)
        assert len(applied) == TENSORS // 2
    assert s3.at("out") == locked


def test_a_copy_on_this_machine_is_whole_and_goes(s3, proxy, model, opened):
    folder = open_folder(locate(s3.put(content(model), "m")))
    with local_copy(folder) as here:
        assert content(here) == opened
        with pytest.raises(InputError, match=rf"^{s3.url}/m/config"), local_copy(folder) as other:
            raise InputError(f"{other}/config.json is wrong.")
    assert not here.exists()
