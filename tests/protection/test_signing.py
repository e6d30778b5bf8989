"""A signed folder is accepted as it is, here and by the stock program; any other folder is not."""

import json
import shutil
import sys
from subprocess import run

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.tiny import add_tokenizer, llama, write_pem
from unmergeable.cli import main
from unmergeable.errors import InputError, KeyFileError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect
from unmergeable.protection.signing import sign, verify_signature

pytest.importorskip("model_signing", reason="pip install 'unmergeable[signing]'")
KEY = Key(bytes(range(32)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A locked model with a card, signed."""
    root = tmp_path_factory.mktemp("signed")
    model = add_tokenizer(llama(root / "m", shards=2))
    (model / "README.md").write_text("a card")
    protect(model, root / "locked", KEY)
    write_pem(root, "s.pem", "s.pub")
    write_pem(root, "other.pem", "other.pub")
    sign(root / "locked", root / "s.pem")
    return root


@pytest.fixture
def signed(made, tmp_path):
    """A copy of its own, and where the keys are."""
    shutil.copytree(made / "locked", tmp_path / "locked")
    return tmp_path / "locked", made / "s.pub"


def stock(folder, public):
    """What the program of model-signing says."""
    options = ["--signature", folder / "model.sig", "--public_key", public]
    command = [sys.executable, "-m", "model_signing", "verify", "key", folder, *options]
    return run(command, capture_output=True).returncode == 0


def _append(name):
    def change(folder):
        with (folder / name).open("ab") as file:
            file.write(b" ")

    return change


CHANGES = {
    "weights": (_append("model-00002-of-00002.safetensors"), "changed"),
    "the manifest": (_append("unmergeable.json"), "changed"),
    "the card": (_append("README.md"), "changed"),
    "a file removed": (lambda folder: (folder / "tokenizer.json").unlink(), "missing"),
    "a file added": (_append("modeling.py"), "added"),
    "a hidden file added": (_append(".env"), "added"),
}


def test_a_folder_as_it_was_signed_is_accepted_here_and_by_the_stock_program(signed):
    folder, public = signed
    report = verify_signature(folder, public)
    assert report.valid and report.files.same and report.signature == folder / "model.sig"
    assert stock(folder, public)
    (folder / ".cache" / "huggingface").mkdir(parents=True)  # what `hf download` leaves
    _append(".cache/huggingface/x.lock")(folder)
    _append(".gitattributes")(folder)
    assert verify_signature(folder, public).valid and stock(folder, public)


@pytest.mark.parametrize("case", CHANGES)
def test_a_file_that_was_changed_removed_or_added_is_named(signed, case):
    folder, public = signed
    change, kind = CHANGES[case]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    change(folder)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    (name,) = (n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    report = verify_signature(folder, public)
    assert not report.valid
    found = {k: getattr(report.files, k) for k in ("changed", "missing", "added")}
    assert found == {"changed": (), "missing": (), "added": (), kind: (name,)}


def test_the_stock_program_refuses_a_changed_folder(signed):
    folder, public = signed
    _append("config.json")(folder)
    assert not stock(folder, public)


def test_another_key_and_a_changed_signature_are_no(signed, made):
    folder, public = signed
    assert not verify_signature(folder, made / "other.pub").valid
    path = folder / "model.sig"
    bundle = json.loads(path.read_text())
    hint = bundle["verificationMaterial"]["publicKey"]
    bundle["verificationMaterial"]["publicKey"] = {"hint": ""}
    path.write_text(json.dumps(bundle))
    assert verify_signature(folder, public).valid
    assert not verify_signature(folder, made / "other.pub").valid
    bundle["verificationMaterial"]["publicKey"] = hint
    sig = bundle["dsseEnvelope"]["signatures"][0]["sig"]
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = sig[:20] + "AAAA" + sig[24:]
    path.write_text(json.dumps(bundle))
    report = verify_signature(folder, public)
    assert not report.valid and "was changed" in report.reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not signed"),
        ("{", "cannot be read as JSON"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ('{"dsseEnvelope": {"signatures": [{"sig": "x"}]}}', "is damaged"),
    ],
)
def test_a_signature_that_says_nothing_is_refused(signed, content, said):
    folder, public = signed
    (folder / "model.sig").unlink()
    if content is not None:
        (folder / "model.sig").write_text(content)
    with pytest.raises(InputError, match=said):
        verify_signature(folder, public)


def test_links_are_followed_as_a_download_of_the_hub_has_them(signed, tmp_path):
    folder, public = signed
    (tmp_path / "links").mkdir()
    for path in folder.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert verify_signature(tmp_path / "links", public).valid
    _append("config.json")(folder)
    assert not verify_signature(tmp_path / "links", public).valid


def test_a_new_signature_takes_the_place_of_the_old_one(signed, made):
    folder, public = signed
    _append("README.md")(folder)
    names = {path.name for path in folder.iterdir()}
    sign(folder, made / "s.pem")
    assert verify_signature(folder, public).valid
    assert {path.name for path in folder.iterdir()} == names


def test_what_cannot_be_signed_is_said(signed, made, tmp_path):
    folder, _ = signed
    write_pem(folder, "own.pem", "own.pub")
    with pytest.raises(InputError, match="is the private key"):
        sign(folder, folder / "own.pem")
    (folder / "link").symlink_to(folder / "config.json")
    with pytest.raises(InputError, match="symlink"):
        sign(folder, made / "s.pem")
    write_pem(tmp_path, "ed.pem", "ed.pub", Ed25519PrivateKey.generate())
    with pytest.raises(KeyFileError, match="takes ECDSA keys"):
        sign(folder, tmp_path / "ed.pem")


def test_an_encrypted_key_signs(signed, made, tmp_path):
    folder, _ = signed
    write_pem(tmp_path, "s.pem", "s.pub", passphrase="secret")
    sign(folder, tmp_path / "s.pem", "secret")
    assert verify_signature(folder, tmp_path / "s.pub").valid


def test_the_commands(signed, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pem(tmp_path, "s.pem", "s.pub", passphrase="secret")
    monkeypatch.setenv("UNMERGEABLE_PASSPHRASE", "secret")
    assert main(["keygen", "k", "--json"]) == 0
    monkeypatch.setenv("UNMERGEABLE_PASSPHRASE", "secret")
    protecting = ["protect", str(made / "m"), "out", "--key", "k", "--sign", "s.pem"]
    assert main(protecting) == 0
    check = ["verify", "--signature", "out", "--public-key", "s.pub"]
    assert main(check) == 0 and stock(tmp_path / "out", tmp_path / "s.pub")
    capsys.readouterr()
    _append("unmergeable.json")(tmp_path / "out")  # the manifest is covered
    assert main(check) == 1
    assert "NOT" in (said := capsys.readouterr().out) and "unmergeable.json" in said
    assert main([*check, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["files"]["changed"] == ["unmergeable.json"]
    assert main(["sign", "out", "--private-key", "s.pem"]) == 0 and main(check) == 0


def test_a_signature_does_not_travel_into_what_is_made_of_the_folder(signed, tmp_path):
    from unmergeable.protection.protect import unlock

    folder, _ = signed
    assert unlock(folder, tmp_path / "open", KEY).left_out == ("model.sig",)
    assert not (tmp_path / "open" / "model.sig").exists()
