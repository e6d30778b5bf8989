"""Evidence agrees with the files it was made from, without the key, and with nothing else."""

import base64
import json
import stat
from hashlib import sha256

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import unmergeable
from tests.tiny import save, write_pem
from tests.tracing.models import CONFIG, KEY, STRENGTH, fine_tunes, numbers_of
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.cli import main
from unmergeable.defences.mark import Mark, release_of
from unmergeable.errors import InputError, KeyFileError, ManifestError
from unmergeable.keys.key import Key
from unmergeable.keys.signing_key import SigningKey
from unmergeable.tracing.envelope import Envelope
from unmergeable.tracing.evidence import check_evidence, write_evidence


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A merge of alice's copy and the peer's model; evidence of it, signed."""
    root = tmp_path_factory.mktemp("evidence")
    fine_tunes(root, "expert", "peer")
    settings = STRENGTH | {"licensee": "alice"}
    for name, defence in (("copy", "mark"), ("locked", "mark+lock")):
        unmergeable.protect(
            root / "expert", root / name, KEY, defence=defence, settings=settings,
            base=root / "base",
        )  # fmt: skip
    copy, peer, start = (numbers_of(root / name) for name in ("copy", "peer", "base"))
    merge = {n: start[n] + 0.6 * (copy[n] - start[n]) + 0.4 * (peer[n] - start[n]) for n in start}
    save(root / "suspect", {n: w.astype("<f4") for n, w in merge.items()}, CONFIG)
    write_pem(root, "s.pem", "s.pub", Ed25519PrivateKey.generate())
    write_pem(root, "other.pem", "other.pub")
    write_evidence(traced(root), root / "evidence.json", KEY, root / "s.pem")
    return root


def traced(root, suspect="suspect", key=KEY, **options):
    return unmergeable.trace(
        root / suspect, base=root / "base", original=root / "expert", key=key, strength=0.1,
        licensees=("", "alice"), **options,
    )  # fmt: skip


def checked(root, evidence=None, **options):
    given = {"suspect": "suspect", "base": "base", "original": "expert"}
    given = {name: root / options.pop(name, usual) for name, usual in given.items()}
    return check_evidence(evidence or root / "evidence.json", **given, **options)


def facts(report):
    return {fact.name: fact.holds for fact in report.facts}


def wrong(report):
    return {fact.name for fact in report.facts if fact.holds is False}


def changed(root, out, change, key="s.pem"):
    """The evidence with another statement, signed again."""
    statement = json.loads(Envelope.read(root / "evidence.json").payload)
    content = json.dumps(change(statement) or statement).encode()
    (out / "changed.json").write_bytes(Envelope(content).signed(SigningKey.load(root / key)))
    return out / "changed.json"


def put(place, value):
    """A change of one field of a statement, by its path."""
    *way, last = place.split("/")

    def change(statement):
        for part in way:
            statement = statement[int(part) if part.isdecimal() else part]
        if value is KeyError:
            del statement[last]
        else:
            statement[int(last) if last.isdecimal() else last] = value

    return change


def test_all_is_found_again_without_the_key(case):
    report = checked(case, manifest=case / "locked", public_key=case / "s.pub")
    assert report.agrees and report.licensee == "alice"
    assert facts(report) == dict.fromkeys(
        ("signature", "suspect", "base", "original", "opening", "manifest", "expert", "figures",
         "finding"), True,
    )  # fmt: skip
    found, again = traced(case), report.trace
    assert again.tests == found.tests == 2 and again.traces[0].z == found.traces[0].z > 10
    assert again.traces[0].weight == pytest.approx(0.6, abs=0.1)


def test_it_opens_one_mark_alone(case):
    content = (case / "evidence.json").read_bytes()
    statement = Envelope.read(case / "evidence.json").payload.decode()
    release = traced(case).release
    assert Mark.of(KEY, release, "alice").secret.hex() in statement
    for secret in (KEY.secret, Mark.of(KEY, release).secret):
        assert secret.hex() not in statement
        assert base64.b64encode(secret) not in content and secret not in content
    assert stat.S_IMODE((case / "evidence.json").stat().st_mode) == 0o600


def test_without_manifest_and_public_key_it_says_what_is_not_shown(case):
    report = checked(case)
    assert report.agrees
    assert {name for name, holds in facts(report).items() if holds is None} == {
        "signature", "manifest"
    }  # fmt: skip
    (said,) = (fact.said for fact in report.facts if fact.name == "manifest")
    assert "nothing shows that the mark was chosen before" in said


def test_stock_readers_read_it(case):
    dsse = pytest.importorskip("securesystemslib.dsse")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement
    from securesystemslib.signer import SSlibKey

    document = json.loads((case / "evidence.json").read_text())
    public = load_pem_public_key((case / "s.pub").read_bytes())
    key = SSlibKey.from_crypto(public, document["signatures"][0]["keyid"])
    envelope = dsse.Envelope.from_dict(document)
    assert envelope.verify([key], 1)
    content = json.loads(envelope.payload)
    statement = Statement.copy_from_pb(json_format.ParseDict(content, statement_pb2.Statement()))
    statement.validate()
    (subject,) = statement.pb.subject
    weights = (case / "suspect" / "model.safetensors").read_bytes()
    assert subject.digest["sha256"] == sha256(weights).hexdigest()


OTHER = "ab" * 32
CHANGES = {
    "another suspect's digest": (put("subject/0/digest/sha256", OTHER), {"suspect"}),
    "our digest alone": (put("subject/0/digest/blake3", OTHER), {"suspect"}),
    "one more file": (
        lambda s: s["subject"].append({"name": "x", "digest": {"sha256": OTHER}}),
        {"suspect"},
    ),
    "another base": (put("predicate/base/0/digest/sha256", OTHER), {"base"}),
    "another original": (put("predicate/original/0/digest/blake3", OTHER), {"original"}),
    "a sibling": (
        lambda s: s["predicate"]["siblings"].append(s["predicate"]["base"]),
        {"sibling 1"},
    ),
    "another secret": (put("predicate/mark/secret", OTHER), {"opening"}),
    "another name": (put("predicate/mark/licensee", "bob"), {"opening"}),
    "another release": (put("predicate/mark/release", OTHER), {"opening"}),
    "another commitment": (put("predicate/mark/commitment", OTHER), {"opening", "manifest"}),
    "another strength": (put("predicate/mark/strength", 0.05), {"manifest"}),
    "a higher z": (put("predicate/finding/z", 100.0), {"figures"}),
    "a lower p": (put("predicate/finding/log10_p", -5000.0), {"figures"}),
    "more weight": (put("predicate/finding/weight", 0.9), {"figures"}),
    "a narrower interval": (put("predicate/finding/interval/0", 0.6), {"figures"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_so_is_named(case, tmp_path, name):
    change, wanted = CHANGES[name]
    evidence = changed(case, tmp_path, change)
    report = checked(case, evidence, manifest=case / "copy", public_key=case / "s.pub")
    assert not report.agrees and wrong(report) == wanted


def test_a_model_without_the_mark_is_not_shown_to_have_it(case, tmp_path):
    files = unmergeable.tracing.evidence._files(case / "peer")
    evidence = changed(case, tmp_path, put("subject", files))
    report = checked(case, evidence, suspect="peer", manifest=case / "copy")
    assert wrong(report) == {"figures", "finding"} and not report.trace.found


def test_more_tests_make_the_p_value_larger(case, tmp_path):
    evidence = changed(case, tmp_path, put("predicate/finding/tests", 2 * 10**6))
    report = checked(case, evidence)
    assert wrong(report) == {"figures"}
    assert report.trace.traces[0].log10_p == pytest.approx(traced(case).traces[0].log10_p + 6)


@pytest.mark.parametrize("given", [{"suspect": "peer"}, {"base": "peer"}, {"original": "copy"}])
def test_other_models_are_named(case, given):
    report = checked(case, **given)
    assert wrong(report) == given.keys() and report.trace is None


def test_bytes_that_were_changed_are_not_signed(case, tmp_path):
    document = json.loads((case / "evidence.json").read_text())
    payload = base64.b64decode(document["payload"])
    document["payload"] = base64.b64encode(payload + b" ").decode()
    (tmp_path / "e.json").write_text(json.dumps(document))
    assert wrong(checked(case, tmp_path / "e.json", public_key=case / "s.pub")) == {"signature"}
    assert wrong(checked(case, public_key=case / "other.pub")) == {"signature"}
    evidence = changed(case, tmp_path, lambda statement: None, key="other.pem")
    assert not wrong(checked(case, evidence, public_key=case / "other.pub"))


def test_unsigned_evidence_is_said_to_be(case, tmp_path):
    write_evidence(traced(case), tmp_path / "e.json", KEY)
    report = checked(case, tmp_path / "e.json")
    assert report.agrees and "is not signed" in report.facts[0].said
    assert wrong(checked(case, tmp_path / "e.json", public_key=case / "s.pub")) == {"signature"}


def test_a_manifest_of_something_else_is_no_commitment(case, tmp_path):
    unmergeable.protect(
        case / "expert", tmp_path / "bob", KEY, defence="mark", base=case / "base",
        settings=STRENGTH | {"licensee": "bob"},
    )  # fmt: skip
    unmergeable.protect(case / "expert", tmp_path / "plain", KEY)
    for other in ("bob", "plain"):
        assert wrong(checked(case, manifest=tmp_path / other)) == {"manifest"}
    assert not wrong(checked(case, manifest=case / "copy" / "unmergeable.json"))
    with pytest.raises(ManifestError):
        checked(case, manifest=tmp_path)


def test_an_expert_that_was_made_to_fit_does_not_fit_an_earlier_commitment(case, tmp_path):
    """Anyone finds "his" mark in any model, if he may choose his expert when he knows the model."""
    base, peer = numbers_of(case / "base"), numbers_of(case / "peer")
    secret = bytes(range(32))
    fitted = {
        name: (w - 0.01 * np.abs(w - base[name]).mean()
               * Mark(secret).signs(name, w.size).reshape(w.shape)).astype("<f4")
        for name, w in peer.items()
    }  # fmt: skip
    expert = open_folder(save(tmp_path / "fitted", fitted, CONFIG))
    with TensorReader(expert) as reader:
        mark = Mark(secret, release_of(expert, Layout.of_folder(expert), reader), "alice")

    def claim(statement, commitment):
        opened = {"secret": secret.hex(), "release": mark.release, "commitment": commitment}
        statement["predicate"]["mark"] |= opened
        for place, model in (("subject", "peer"), ("original", "fitted")):
            files = unmergeable.tracing.evidence._files(
                tmp_path / model if model == "fitted" else case / model
            )
            (statement if place == "subject" else statement["predicate"])[place] = files

    models = {"suspect": "peer", "original": tmp_path / "fitted"}
    late = changed(case, tmp_path, lambda s: claim(s, mark.commitment))
    report = checked(case, late, **models)
    assert report.trace.found and wrong(report) == {"figures"}  # but for figures, it would agree
    assert "manifest" in wrong(checked(case, late, manifest=case / "copy", **models))
    with_earlier = json.loads((case / "copy" / "unmergeable.json").read_text())
    earlier = with_earlier["chain"][0]["settings"]["commitment"]
    early = changed(case, tmp_path, lambda s: claim(s, earlier))
    assert wrong(checked(case, early, manifest=case / "copy", **models)) == {"opening"}


def test_the_expert_must_be_the_one_that_the_mark_was_made_for(case, tmp_path):
    other = numbers_of(case / "expert")
    name = next(n for n in other if "up_proj" in n)
    other[name][0, 0] += 1e-3
    save(tmp_path / "other", {n: w.astype("<f4") for n, w in other.items()}, CONFIG)
    files = unmergeable.tracing.evidence._files(tmp_path / "other")
    evidence = changed(case, tmp_path, put("predicate/original", files))
    report = checked(case, evidence, manifest=case / "copy", original=tmp_path / "other")
    assert wrong(report) == {"expert"}


def test_siblings_are_named_and_have_to_be_given(case, tmp_path):
    write_evidence(traced(case, siblings=[case / "peer"]), tmp_path / "e.json", KEY)
    evidence, sibling = tmp_path / "e.json", [case / "peer"]
    assert wrong(checked(case, evidence)) == {"sibling 1"}
    assert wrong(checked(case, evidence, siblings=[case / "base"])) == {"sibling 1"}
    assert wrong(checked(case, evidence, siblings=sibling * 2)) == {"sibling 2"}
    report = checked(case, evidence, siblings=sibling)
    assert report.agrees and any("must be others'" in fact.said for fact in report.facts)
    assert report.trace.traces[0].z > checked(case).trace.traces[0].z


BROKEN = {
    **{f"without {place}": put(place, KeyError) for place in (
        "_type", "predicateType", "subject", "predicate", "predicate/base", "predicate/siblings",
        "predicate/mark", "predicate/mark/secret", "predicate/finding/tests",
        "predicate/finding/interval", "subject/0/name", "subject/0/digest",
    )},
    "another type": put("predicateType", "https://slsa.dev/provenance/v1"),
    "another statement": put("_type", "https://in-toto.io/Statement/v0.1"),
    "no files": put("subject", []),
    "files twice": lambda s: s["subject"].append(s["subject"][0]),
    "no hexadecimal": put("predicate/mark/secret", "xy"),
    "a short secret": put("predicate/mark/secret", "ab"),
    "a number as name": put("predicate/mark/licensee", 7),
    "a long name": put("predicate/mark/licensee", "x" * 1000),
    "a lone surrogate": put("predicate/mark/licensee", "\ud800"),
    "no tests": put("predicate/finding/tests", 0),
    "true tests": put("predicate/finding/tests", True),
    "endless tests": put("predicate/finding/tests", 10**400),
    "not a number": put("predicate/finding/z", float("nan")),
    "an endless number": put("predicate/finding/z", 10**400),
    "text for a number": put("predicate/finding/z", "7"),
    "any error rate": put("predicate/finding/error_rate", 1.0),
    "no strength": put("predicate/mark/strength", 0),
    "three ends": put("predicate/finding/interval", [1, 2, 3]),
    "a list": lambda s: [s],
    "deep": lambda s: json.loads("[" * 100 + "]" * 100),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_statement_that_is_damaged_is_refused(case, tmp_path, name):
    evidence = changed(case, tmp_path, BROKEN[name])
    with pytest.raises(InputError, match=r"changed.json (is|cannot)"):
        checked(case, evidence)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no DSSE envelope"),
        ("{}", "no DSSE envelope"),
        ('{"payloadType": "text/plain"}', "holds text/plain"),
        ('{"payloadType": "application/vnd.in-toto+json", "payload": "!", "signatures": []}', "no"),
        ('{"payloadType": "application/vnd.in-toto+json", "payload": 3, "signatures": []}', "no"),
        ('{"payloadType": "application/vnd.in-toto+json", "payload": "e30="}', "no DSSE envelope"),
        (
            '{"payloadType": "application/vnd.in-toto+json", "payload": "e30=", "signatures": [3]}',
            "no DSSE envelope",
        ),
        (
            '{"payloadType": "application/vnd.in-toto+json", "payload": "ew==", "signatures": []}',
            "cannot be read as JSON",
        ),
    ],
)
def test_a_file_that_is_no_envelope_is_refused(case, tmp_path, content, said):
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(InputError, match=said):
        checked(case, tmp_path / "e.json")


def test_only_what_was_found_with_this_key_is_written_and_nothing_over_it(case, tmp_path):
    with pytest.raises(InputError, match="no mark was found"):
        write_evidence(traced(case, "peer"), tmp_path / "e.json", KEY)
    with pytest.raises(InputError, match="no mark was found"):
        write_evidence(traced(case, key=None), tmp_path / "e.json", KEY)
    with pytest.raises(KeyFileError, match="another key"):
        write_evidence(traced(case), tmp_path / "e.json", Key(bytes(32)))
    with pytest.raises(InputError, match="No such file"):
        write_evidence(traced(case), tmp_path / "no" / "e.json", KEY)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="exists"):
        write_evidence(traced(case), case / "evidence.json", KEY)
    assert checked(case).agrees


def test_the_commands(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "expert", "peer", "s.pem", "s.pub"):
        (tmp_path / name).symlink_to(case / name)
    assert main(["keygen", "k"]) == 0
    common = ["--base", "base", "--original", "expert"]
    owned = [*common, "--key", "k", "--licensee", "alice"]
    copying = ["protect", "expert", "out", "--defence", "mark+lock", "--base", "base"]
    assert main([*copying, "--key", "k", "--licensee", "alice"]) == 0
    writing = ["--evidence", "e.json", "--sign", "s.pem"]
    assert main(["trace", "peer", *owned, *writing]) == 1 and not (tmp_path / "e.json").exists()
    capsys.readouterr()
    assert main(["trace", "out", *owned, *writing]) == 0
    assert "e.json shows the copy of alice" in capsys.readouterr().out
    check = ["--check", "e.json", "--manifest", "out/unmergeable.json", "--public-key", "s.pub"]
    assert main(["trace", "out", *common, *check]) == 0
    said = capsys.readouterr().out
    assert "The evidence agrees: out contains the copy of alice" in said and "not shown" not in said
    assert main(["trace", "peer", *common, *check]) == 1
    assert "does NOT agree: suspect" in capsys.readouterr().out
    assert main(["trace", "peer", *common, *check, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["agrees"] is False and document["facts"]["suspect"]["holds"] is False
    assert main(["trace", "out", *owned, *writing]) == 2
    assert main(["trace", "out", *common, "--check", "s.pub"]) == 2
    for more in (
        ["--evidence", "x"], ["--check", "e.json", "--key", "k"],
        ["--check", "e.json", "--suspects", "1"], ["--check", "e.json", "--twin", "peer"],
        ["--key", "k", "--manifest", "out"], ["--key", "k", "--sign", "s.pem"],
    ):  # fmt: skip
        assert main(["trace", "out", *common, *more]) == 4
