"""The command line: exit codes, one JSON document, text elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import (
    add_tokenizer,
    content,
    llama,
    lora,
    stored,
    weights_of,
    write_pem,
    write_safetensors,
)
from unmergeable import __version__, cli
from unmergeable.checkpoint import staging
from unmergeable.cli import COMMANDS, main
from unmergeable.keys.key import Key, load_key
from unmergeable.merging.methods import OWN
from unmergeable.protection.protect import protect
from unmergeable.protection.register import LicensedCopy, enter


class Run:
    """One call of the command line, with what it printed."""

    def __init__(self, capsys, *arguments):
        capsys.readouterr()
        self.code = main([str(argument) for argument in arguments])
        self.out, self.err = capsys.readouterr()

    @property
    def document(self):
        """The one JSON document on stdout."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@pytest.fixture
def run(capsys):
    return lambda *arguments: Run(capsys, *arguments)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with the model `m`, the keys `k` and `other`, and `m` locked as `locked`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNMERGEABLE_PASSPHRASE", raising=False)
    llama(tmp_path / "m")
    assert main(["keygen", "k", "--json"]) == main(["keygen", "other", "--json"]) == 0
    llama(tmp_path / "base", seed=1)
    protect("m", "locked", load_key("k"))
    enter("register", load_key("k"), LicensedCopy("alice", "ab" * 32))
    lora(tmp_path / "lora")
    llama(tmp_path / "unknown", model_type="mamba")
    (tmp_path / "text.txt").write_text("the cat\n")
    write_pem(tmp_path, "sign.pem", "pub.pem")
    return tmp_path


# Exit codes

GOOD = {
    "keygen": "keygen new.key",
    "inspect": "inspect m",
    "inspect of a locked model": "inspect locked",
    "protect": "protect m out --key k",
    "protect with settings": "protect m out --key k --set kind=general --set spaces=vo,qk",
    "protect with the rest": "protect m out --key k --defence lock --workers 2 --allow-non-finite",
    "protect an adapter": "protect lora out --key k --model locked",
    "unlock": "unlock locked out --key k",
    "relock": "relock locked out --key k --new-key other",
    "unlock an adapter": "unlock lora out --key k --model locked",
    "protect for a licensee": "protect m out --key k --defence mark --base base --licensee x "
    "--register new.register",
    "protect with a card": "protect m out --key k --card --contact me --license mit",
    "licensees": "licensees register --key k",
    "verify": "verify m locked",
    "verify with the key": "verify m locked --key k --tolerance 0.001",
    "protect and sign": "protect m out --key k --sign sign.pem",
    "sign": "sign m --private-key sign.pem",
    "verify files": "verify --files locked",
    "verify files and the seal": "verify --files locked --key k",
    "merge": "merge out --method linear --model m --model m --set weight=0.5",
    "merge with lists": "merge out --method linear --model m --model m --set weight=0.7,0.3",
    "merge under the key": "merge out --method ties --base m --model m --model locked "
    "--set weight=0.5 --key k --seed 3",
}


@pytest.mark.parametrize("case", GOOD)
def test_success_is_0_with_one_document(run, here, case):
    done = run(*GOOD[case].split(), "--json")
    assert done.code == 0
    assert isinstance(done.document, dict) and "error" not in done.document
    assert done.err == ""
    if "out" in GOOD[case].split():
        assert done.document["out"] == str(here / "out")
        assert list((here / "out").glob("*model.safetensors"))


@pytest.mark.parametrize("case", GOOD)
def test_success_without_json_is_told_to_people(run, here, case):
    done = run(*GOOD[case].split())
    assert done.code == 0
    assert done.err == ""
    assert len(done.out) > 40
    with pytest.raises(json.JSONDecodeError):
        json.loads(done.out)


BAD = {
    2: {
        "keygen over a file": ("keygen k", "exists"),
        "keygen into no folder": ("keygen no/k", "No such file"),
        "inspect nothing": ("inspect absent", "neither a folder nor a Hub id"),
        "inspect a file": ("inspect text.txt", "is not a folder"),
        "inspect no model": ("inspect .", "has no config.json"),
        "protect without a model": ("protect absent out --key k", "neither a folder"),
        "protect without the key file": ("protect m out --key no", "cannot read the key no"),
        "protect with a key that is none": ("protect m out --key text.txt", "not a key file"),
        "protect into a full folder": ("protect m locked --key k", "not an empty folder"),
        "protect again": ("protect locked out --key k", "protected already"),
        "protect by an unknown defence": ("protect m out --key k --defence wall", "'wall'"),
        "protect with an unknown setting": ("protect m out --key k --set x=1", "no setting 'x'"),
        "protect an unknown space": ("protect m out --key k --set spaces=x", "no such space"),
        "protect an adapter alone": (
            "protect lora out --key k",
            "does not cancel against the froz",
        ),
        "protect an adapter of nothing": ("protect lora out --key k --model m", "is not protected"),
        "protect a model as an adapter": (
            "protect m out --key k --model locked",
            "has no adapter_config.json",
        ),
        "unlock an open model": ("unlock m out --key k", "has no unmergeable.json"),
        "unlock with another key": ("unlock locked out --key other", "was protected with"),
        "relock an open model": ("relock m out --key k --new-key other", "has no unmergeable.json"),
        "relock with another key": (
            "relock locked out --key other --new-key k",
            "was protected with",
        ),
        "relock to the same key": ("relock locked out --key k --new-key k", "is the old one"),
        "protect for nobody with a register": (
            "protect m out --key k --register register",
            "lists licensees",
        ),
        "protect with a comment in the card": (
            "protect m out --key k --card --contact <!--x-->",
            "give one line",
        ),
        "licensees with another key": ("licensees register --key other", "is of the key"),
        "licensees of no register": ("licensees text.txt --key k", "cannot be read as JSON"),
        "verify without a file": ("verify m locked --text no.txt", "cannot read the prompts"),
        "verify text without a tokenizer": ("verify m locked --text text.txt", "no tokenizer"),
        "verify files of an open model": ("verify --files m", "has no unmergeable.json"),
        "verify files of nothing": ("verify --files absent", "neither a folder nor a Hub id"),
        "verify files with another key": (
            "verify --files locked --key other",
            "was protected with",
        ),
        "verify without a signature": (
            "verify --signature m --public-key pub.pem",
            "is not signed",
        ),
        "verify with a public key that is none": (
            "verify --signature m --public-key k",
            "is no public key",
        ),
        "sign without the key file": ("sign m --private-key no", "cannot read the key no"),
        "sign with a key that is none": ("sign m --private-key k", "is no private key"),
        "sign nothing": ("sign absent --private-key sign.pem", "is not a folder"),
        "protect and sign with a key that is none": (
            "protect m out --key k --sign text.txt",
            "is no private key",
        ),
        "verify with another key": ("verify m locked --key other", "was protected with"),
        "merge by an unknown method": ("merge out --method x --model m", "no merge method"),
        "merge without a base": (
            "merge out --method ties --model m --model m --model m --set weight=1",
            "needs the base model",
        ),
        "merge without a parameter": ("merge out --method linear --model m", "needs 'weight'"),
        "merge with no lock under the key": (
            "merge out --method linear --model m --model m --set weight=1 --key k",
            "none of these models is locked",
        ),
        "a model from the Hub, offline": ("inspect owner/name", "no folder owner/name"),
    },
    3: {
        "inspect": ("inspect unknown", "'mamba' is not supported. Supported: "),
        "protect": ("protect unknown out --key k", "docs/architectures.md"),
    },
    4: {
        "no such command": ("lock m", "No such command 'lock'"),
        "no such option": ("inspect m --quickly", "--quickly"),
        "a missing argument": ("protect m", "Missing argument 'OUT'"),
        "a missing key": ("protect m out", "Missing option '--key'"),
        "one argument too many": ("inspect m m", "unexpected extra argument"),
        "a setting that is none": ("protect m out --key k --set spaces", "is not NAME=VALUE"),
        "a setting without a name": ("protect m out --key k --set =1", "is not NAME=VALUE"),
        "no threads": ("protect m out --key k --workers 0", "--workers"),
        "verify one model": ("verify m", "Missing argument 'PROTECTED'"),
        "verify files of two": ("verify m locked --files locked", "goes with --key and --json"),
        "verify a signature alone": ("verify --signature locked", "goes with --public-key"),
        "verify with a public key alone": ("verify m m --public-key k", "goes with --signature"),
        "sign an adapter": ("protect lora out --key k --model m --sign k", "--sign goes with"),
        "sign at an address": ("protect m memory://x --key k --sign k", "--sign goes with"),
        "align to an address": ("align m memory://x --base m", "writes to this machine"),
        "a negative tolerance": ("verify m m --tolerance -1", "--tolerance"),
        "evidence without a key": (
            "trace m --base m --original m --evidence e",
            "needs --key",
        ),
        "a manifest without evidence": (
            "trace m --base m --original m --manifest m",
            "goes with --check",
        ),
        "no models": ("merge out --method linear", "Missing option '--model'"),
        "a parameter that is no number": (
            "merge out --method linear --model m --set weight=heavy",
            "not a number",
        ),
        "a seed that is none": ("merge out --method linear --model m --seed x", "--seed"),
    },
}
ROWS = [(code, case) for code, cases in BAD.items() for case in cases]


@pytest.mark.parametrize(("code", "case"), ROWS)
def test_failure_has_its_code_and_one_document(run, here, code, case):
    command, message = BAD[code][case]
    before = content(here)
    done = run(*command.split(), "--json")
    assert done.code == code
    error = done.document["error"]
    assert message in error["message"]
    assert error["type"].endswith("Error")
    assert message in done.err.replace("\n", " ")
    assert "Traceback" not in done.err
    assert content(here) == before


@pytest.mark.parametrize(("code", "case"), ROWS)
def test_failure_without_json_prints_nothing_on_stdout(run, here, code, case):
    command, message = BAD[code][case]
    done = run(*command.split())
    assert done.code == code
    assert done.out == ""
    assert message in done.err


def test_different_models_are_1(run, here):
    weights = weights_of(here / "m")
    weights["lm_head.weight"] *= 1.01
    other = llama(here / "o")
    write_safetensors(other / "model.safetensors", weights)
    done = run("verify", "m", "o", "--json")
    assert done.code == 1
    assert done.document["same"] is False
    assert done.document["outputs"]["relative"] == pytest.approx(0.01, rel=0.01)
    assert "DIFFER" in run("verify", "m", "o").out
    weights["lm_head.weight"][:, 0] = float("inf")
    write_safetensors(other / "model.safetensors", weights)
    done = run("verify", "m", "o", "--json")
    assert done.code == 1
    assert done.document["outputs"]["max_difference"] is None  # JSON knows no infinity


@pytest.mark.parametrize("key", ["", " --key k"])
def test_changed_files_are_1_and_named(run, here, key):
    known = run(*f"verify --files locked{key}".split()).out
    assert ("does not show who wrote them" in known) == (not key)
    (here / "locked" / "config.json").write_text("{}")
    (here / "locked" / "more.bin").write_text("weights")
    done = run(*f"verify --files locked{key} --json".split())
    assert done.code == 1
    assert done.document["same"] is False and done.document["sealed"] == (True if key else None)
    assert done.document["files"]["changed"] == ["config.json"]
    assert done.document["files"]["added"] == ["more.bin"]
    done = run(*f"verify --files locked{key}".split())
    assert done.code == 1
    assert "config.json" in done.out and "more.bin" in done.out and "are NOT those" in done.out


def test_no_command_is_a_usage_error_that_helps(run):
    done = run()
    assert done.code == 4
    assert "Usage: unmergeable" in done.err + done.out


def test_an_interrupt_is_said_in_a_sentence(run, here, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("unmergeable.protection.inspect.inspect", interrupt)
    done = run("inspect", "m", "--json")
    assert done.code == 130
    assert "interrupted" in done.document["error"]["message"]


def test_a_fault_of_ours_is_2_and_never_the_answer_no(run, here, monkeypatch):
    def fault(*args, **kwargs):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("unmergeable.protection.inspect.inspect", fault)
    done = run("inspect", "m", "--json")
    assert done.code == 2
    assert done.document["error"]["type"] == "ZeroDivisionError"
    assert "Traceback" in done.err and "fault of unmergeable" in done.err


def test_a_full_disk_is_2(run, here, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    done = run("protect", "m", "out", "--key", "k")
    assert done.code == 2
    assert f"the disk of {here / 'out'} is full." in done.err
    assert not (here / "out").exists()


@pytest.mark.parametrize("command", ["protect m out", "unlock locked out"])
def test_weights_that_are_not_finite_or_not_intact_are_2(run, here, command):
    path = here / command.split()[1] / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-4:] = b"\x00\x00\xc0\x7f"
    path.write_bytes(raw)
    done = run(*command.split(), "--key", "k")
    assert done.code == 2
    assert "NaN or infinite" in done.err or "not the file that was protected" in done.err
    assert not (here / "out").exists() and not (here / ".out.partial").exists()


# The main job


def test_the_main_job_from_end_to_end(run, here):
    add_tokenizer(here / "m")
    (here / "m" / "stray.bin").write_bytes(b"open weights")
    made = run("keygen", "owner.key", "--json").document
    locked = run("protect", "m", "my locked", "--key", "owner.key", "--json")
    assert locked.document["left_out"] == ["stray.bin"]
    assert "not copied, as it may hold open weights: stray.bin" in locked.err
    assert locked.document["manifest"]["key"] == made["id"]
    assert locked.document["secret_bits"]["lock"]["residual"] > 100
    seen = run("inspect", "my locked", "--json").document
    assert seen["manifest"] == locked.document["manifest"]
    assert seen["secret_bits"] == pytest.approx(
        sum(locked.document["secret_bits"]["lock"].values())
    )
    checked = run(
        "verify", "m", "my locked", "--key", "owner.key", "--text", "text.txt", "--json"
    ).document
    assert checked["same"] and checked["weights"]["identical"] == checked["weights"]["tensors"]
    assert checked["outputs"]["inputs"] == "1 given prompts"
    back = run("unlock", "my locked", "back", "--key", "owner.key", "--json").document
    assert back["exact"] and back["weights"] == locked.document["manifest"]["weights"]["original"]
    assert stored(here / "back") == stored(here / "m")


def test_a_general_lock_says_that_it_rounds(run, here):
    run("protect", "m", "out", "--key", "k", "--set", "kind=general")
    assert "to within rounding" in run("unlock", "out", "back", "--key", "k").out
    assert "bit for bit" in run("unlock", "locked", "exact", "--key", "k").out


def test_a_merge_of_one_line_is_not_called_ruined(run, here):
    for name in ("one", "two"):
        run("protect", "m", name, "--key", "k", "--set", "line=chat")
    command = "merge out --method linear --model one --model two --set weight=0.5"
    assert "all of these are of one line" in (done := run(*command.split())).err
    assert "ruined" not in done.err
    assert "ruined" in run(*command.replace("two", "m").replace("out", "out2").split()).err


def test_a_merge_with_a_locked_model_and_no_key_is_warned_of(run, here):
    command = "merge out --method linear --model locked --model m --set weight=0.5 --json"
    done = run(*command.split())
    assert done.code == 0
    assert "is locked, and no key was given: expect a ruined merge" in done.err
    assert done.document == {
        "out": str(here / "out"), "method": "linear", "locked": False, "moved": [], "notes": []
    }  # fmt: skip


def test_merge_methods_are_listed(run):
    done = run("merge", "--list-methods")
    assert done.code == 0
    lines = done.out.splitlines()
    assert "linear: weight=..., normalize=True" in lines
    assert any(line.startswith("ties [base required]: ") for line in lines)
    assert len(lines) == 1 + 20 + 1 + len(OWN)
    assert any(line.startswith("tsv [base required]") and "arXiv" in line for line in lines)


def test_names_that_look_like_markup_are_printed_as_they_are(run, here):
    (here / "m").rename(here / "m[bold]:smile:")
    done = run("protect", "m[bold]:smile:", "out[red]", "--key", "k")
    assert done.code == 0
    assert "m[bold]:smile:" in done.out and "out[red]" in done.out
    assert "m[bold]:smile:" in run("inspect", "m[bold]:smile:").out


# Keys and passphrases


def test_a_passphrase_is_taken_from_the_environment(run, here, monkeypatch):
    monkeypatch.setattr("unmergeable.keys.key._SCRYPT", {"n": 16, "r": 8, "p": 1})
    monkeypatch.setenv("UNMERGEABLE_PASSPHRASE", "open sesame")
    done = run("keygen", "sealed", "--passphrase", "--json")
    assert done.document["sealed"] is True
    assert "secret" not in json.loads((here / "sealed").read_text())
    assert run("protect", "m", "out", "--key", "sealed", "--json").code == 0
    monkeypatch.setenv("UNMERGEABLE_PASSPHRASE", "wrong")
    done = run("unlock", "out", "back", "--key", "sealed")
    assert (done.code, "passphrase does not open" in done.err) == (2, True)
    monkeypatch.delenv("UNMERGEABLE_PASSPHRASE")
    done = run("unlock", "out", "back", "--key", "sealed")
    assert (done.code, "is sealed" in done.err) == (2, True)


def test_each_of_two_keys_has_a_passphrase_of_its_own(run, here, monkeypatch):
    monkeypatch.setattr("unmergeable.keys.key._SCRYPT", {"n": 16, "r": 8, "p": 1})
    for name, words in (("a", "old words"), ("b", "new words")):
        monkeypatch.setenv("UNMERGEABLE_PASSPHRASE", words)
        assert run("keygen", name, "--passphrase").code == 0
    monkeypatch.setenv("UNMERGEABLE_PASSPHRASE", "old words")
    assert run("protect", "m", "out", "--key", "a").code == 0
    relock = ("relock", "out", "again", "--key", "a", "--new-key", "b")
    assert "b is sealed" in run(*relock).err
    monkeypatch.setenv("UNMERGEABLE_NEW_PASSPHRASE", "new words")
    assert run(*relock).code == 0


def test_a_mark_that_stays_is_said_with_its_key(run, here):
    protect("m", "marked", load_key("k"), defence="mark+lock", base="base")
    done = run("relock", "marked", "out", "--key", "k", "--new-key", "other")
    assert f"mark stays: no key undoes it, and is still of the key {load_key('k').id}" in done.err


def test_a_passphrase_is_asked_for_on_a_terminal(run, here, monkeypatch):
    monkeypatch.setattr("unmergeable.keys.key._SCRYPT", {"n": 16, "r": 8, "p": 1})
    asked = []

    def prompt(text, **options):
        assert options["hide_input"] and options["err"]
        asked.append(text)
        return "open sesame"

    monkeypatch.setattr("click.prompt", prompt)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert run("keygen", "sealed", "--passphrase", "--json").code == 0
    assert run("protect", "m", "out", "--key", "sealed", "--json").code == 0
    assert asked == ["Passphrase", "Passphrase of sealed"]


def test_no_command_prints_the_secret(run, here):
    secret = json.loads((here / "k").read_text())["secret"]
    for command in GOOD.values():
        for json_option in ([], ["--json"]):
            done = run(*command.split(), *json_option)
            assert secret not in done.out + done.err
            assert load_key(here / "k").secret.hex() not in done.out + done.err


# Help

FACTS = {
    "train": [
        "--list-defences",
        "prompt and completion",
        "one folder per class",
        "accelerate launch",
        "--resume",
        "unmergeable protect",
        "control",
    ],
    "keygen": ["32 random bytes", "--passphrase", "UNMERGEABLE_PASSPHRASE", "a lock of its own"],
    "inspect": ["headers only", "spaces"],
    "protect": [
        "--allow-non-finite",
        "kind=general",
        "spaces=",
        "scales=",
        "line=",
        "LoRA",
        "aligns OUT to its public base",
        "killed run",
        "--sign PEM",
    ],
    "verify": [
        "stock transformers",
        "--text",
        "Exit code 1",
        "--tolerance",
        "--files",
        "does not show who made them",
        "--signature",
        "removed or added",
    ],
    "unlock": ["bit for bit", "within rounding"],
    "relocate": [
        "relocation.json",
        "Experts are fine-tuned from OUT",
        "OUT never travels",
        "goes on with the same",
    ],
    "relock": [
        "on no disk",
        "bit for bit",
        "still open with the old key",
        "`trace` needs that one",
    ],
    "audit": [
        "--base",
        "--original",
        "--peer",
        "--tasks",
        "--quick",
        "--workers",
        "side by side",
        "Exit code 1",
        "5 means undecided",
    ],
    "bench": [
        "field",
        "--suite",
        "mine.yaml",
        "--quick",
        "--workers",
        "--only",
        "goes on",
        "Exit code 2",
    ],
    "demo": ["side by side", "SmolLM2", "Exit code 1", "--cache"],
    "align": [
        "--base",
        "clean sibling",
        "without key and without data",
        "fence",
        "--method",
        "--list-methods",
        "published attacks",
    ],
    "sign": ["model.sig", "model_signing verify key", "removed or added", "UNMERGEABLE_PASSPHRASE"],
    "licensees": ["encrypted under the key", "an earlier one"],
    "trace": [
        "--register",
        "--original",
        "--licensee",
        "--sibling",
        "--error-rate",
        "no proof of innocence",
        "--check",
        "--evidence",
    ],
    "merge": ["--list-methods", "--base", "without --key", "that the key locked apart"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_matters(run, command):
    done = run(command, "--help")
    assert done.code == 0
    text = " ".join(done.out.split())
    assert f"Usage: unmergeable {command}" in text
    for fact in [*FACTS[command], "--json"]:
        assert fact.lower() in text.lower(), fact
    assert run(command, "-h").out == done.out


def test_the_first_help_lists_every_command_and_the_limits(run):
    done = run("--help")
    assert done.code == 0
    assert all(command in done.out for command in COMMANDS)
    assert "It does not stop an attacker" in done.out
    assert set(FACTS) == set(COMMANDS)


def test_the_version_is_printed(run):
    done = run("--version")
    assert done.code == 0
    assert __version__ in done.out


def test_light_commands_do_not_import_torch(tmp_path):
    llama(tmp_path / "m")
    script = f"""
import sys
from unmergeable.cli import main
import unmergeable
for arguments in (
    ["--help"], ["merge", "--help"], ["verify", "--help"], ["keygen", r"{tmp_path / "k"}"],
    ["inspect", r"{tmp_path / "m"}"],
    ["protect", r"{tmp_path / "m"}", r"{tmp_path / "out"}", "--key", r"{tmp_path / "k"}"],
    ["verify", "--files", r"{tmp_path / "out"}"],
    ["unlock", r"{tmp_path / "out"}", r"{tmp_path / "back"}", "--key", r"{tmp_path / "k"}"],
    ["keygen", r"{tmp_path / "n"}"],
    ["relock", r"{tmp_path / "out"}", r"{tmp_path / "new"}", "--key", r"{tmp_path / "k"}",
     "--new-key", r"{tmp_path / "n"}"],
):
    assert main(arguments) == 0, arguments
heavy = {{"torch", "transformers", "mergekit", "safetensors", "scipy"}} & sys.modules.keys()
assert not heavy, heavy
"""
    root = str(Path(cli.__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": root},
    )


def test_the_module_runs_as_a_program(tmp_path):
    root = str(Path(cli.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "unmergeable", "inspect", str(tmp_path), "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 2
    assert "has no config.json" in json.loads(done.stdout)["error"]["message"]


def test_a_second_run_into_the_same_output_is_refused(run, here):
    with staging.Staging(here / "out", "work"):
        done = run("protect", "m", "out", "--key", "k")
    assert done.code == 2
    assert "another run is writing" in done.err


def test_keys_of_the_api_are_those_of_the_command_line(here):
    import unmergeable

    assert isinstance(unmergeable.load_key(here / "k"), Key)
    assert {"protect", "unlock", "verify", "merge", "inspect", "keygen"} <= set(dir(unmergeable))
    with pytest.raises(AttributeError, match="has no attribute 'x'"):
        unmergeable.x  # noqa: B018
