"""Marked copies are found in what was made of them, named, weighed; nothing else is found."""

import json

import numpy as np
import pytest

import unmergeable
from tests.tiny import LLAMA, llama_weights, save, stored
from tests.tracing.models import CONFIG, KEY, STRENGTH, dead, fine_tunes, numbers_of, tuned
from unmergeable.cli import main
from unmergeable.errors import InputError, KeyFileError
from unmergeable.keys.key import Key


@pytest.fixture(scope="session")
def story(tmp_path_factory):
    """A base, an expert, a peer, and marked copies of the expert: to all, to alice, to bob."""
    root = tmp_path_factory.mktemp("trace")
    fine_tunes(root, "expert", "peer")
    for who in ("", "alice", "bob"):
        settings = {**STRENGTH, **({"licensee": who} if who else {})}
        unmergeable.protect(
            root / "expert", root / f"copy{who}", KEY, defence="mark", settings=settings,
            base=root / "base",
        )  # fmt: skip
    unmergeable.protect(
        root / "expert", root / "locked", KEY, defence="mark+lock", settings=STRENGTH,
        base=root / "base",
    )  # fmt: skip
    return root


def mixed(root, out, parts, change=lambda values: values):
    """The base plus shares of task vectors, written to a folder."""
    base = numbers_of(root / "base")
    made = dict(base)
    for name, share in parts.items():
        for tensor, values in numbers_of(root / name).items():
            made[tensor] = made[tensor] + share * (values - base[tensor])
    return save(out, {n: change(v).astype("<f4") for n, v in made.items()}, CONFIG)


def trace(root, suspect, **options):
    given = {"licensees": ("", "alice", "bob"), "strength": 0.1, **options}
    return unmergeable.trace(
        suspect, base=root / "base", original=root / "expert", **{"key": KEY, **given}
    )


@pytest.mark.parametrize(
    ("parts", "who", "weight"),
    [
        ({"copy": 1.0}, "", 1.0),
        ({"copy": 0.5, "peer": 0.5}, "", 0.5),
        ({"copyalice": 0.2, "peer": 0.8}, "alice", 0.2),
        ({"copybob": 1.6, "peer": 1.0}, "bob", 1.6),
    ],
)
def test_a_copy_in_a_merge_is_named_and_weighed(story, tmp_path, parts, who, weight):
    report = trace(story, mixed(story, tmp_path / "suspect", parts))
    first, *others = report.traces
    assert report.found and first.licensee == who and first.log10_p < -6
    assert first.interval[0] <= weight <= first.interval[1]
    assert all(one.log10_p > -3 for one in others)
    assert {name.split()[1] for name in first.layers} == {"0", "1", "2"}


def test_copies_that_were_averaged_are_all_named(story, tmp_path):
    report = trace(story, mixed(story, tmp_path / "m", {"copyalice": 0.5, "copybob": 0.5}))
    assert [one.log10_p < -6 for one in report.traces] == [True, True, False]
    assert {one.licensee for one in report.traces[:2]} == {"alice", "bob"}
    assert [one.weight for one in report.traces[:2]] == pytest.approx([0.5, 0.5], abs=0.01)


@pytest.mark.parametrize(
    "parts", [{"expert": 1.0}, {"expert": 0.5, "peer": 0.5}, {"peer": 1.0}, {}]
)
def test_nothing_is_found_where_no_copy_went_in(story, tmp_path, parts):
    """The unmarked expert has no mark, either: what leaked was not a copy."""
    report = trace(story, mixed(story, tmp_path / "suspect", parts))
    assert not report.found and all(one.log10_p > -3 for one in report.traces)


def test_other_keys_and_names_find_nothing(story):
    nobody = [f"nobody {number}" for number in range(100)]
    for seed in range(6):
        report = trace(story, story / "copy", key=Key(bytes([seed + 1] * 32)), licensees=nobody)
        assert not report.found and report.tests == 100
    assert not trace(story, story / "copy", licensees=nobody).found


def test_a_lock_on_top_changes_nothing(story, tmp_path):
    """The owner's own, in a chain, and one that the thief drew."""
    unmergeable.protect(story / "copyalice", tmp_path / "hidden", Key(bytes(31) + b"\1"))
    for suspect, who in ((story / "locked", ""), (tmp_path / "hidden", "alice")):
        report = trace(story, suspect)
        assert report.found and report.traces[0].licensee == who
        assert report.traces[0].weight == pytest.approx(1, abs=0.01)


def test_a_mark_and_a_lock_unlock_to_the_marked_copy_bit_for_bit(story, tmp_path):
    report = unmergeable.unlock(story / "locked", tmp_path / "open", KEY)
    assert report.exact and [link.defence for link in report.lasting] == ["mark"]
    assert stored(tmp_path / "open") == stored(story / "copy")


def test_a_manifest_commits_to_the_mark_and_names_nobody(story):
    text = (story / "copyalice" / "unmergeable.json").read_text()
    (link,) = json.loads(text)["chain"]
    found = trace(story, story / "copyalice").traces[0]
    assert link["settings"] == {"strength": 0.1, "commitment": found.commitment}
    assert "alice" not in text and link["lasting"]


def test_siblings_and_more_suspects_change_the_p_value_as_they_should(story, tmp_path):
    suspect = mixed(story, tmp_path / "suspect", {"copy": 0.2, "peer": 0.8})
    alone = trace(story, suspect).traces[0]
    known = trace(story, suspect, siblings=[story / "peer"]).traces[0]
    assert known.z > 2 * alone.z
    many = trace(story, suspect, suspects=1000).traces[0]
    assert many.log10_p == pytest.approx(alone.log10_p + 3)


@pytest.mark.parametrize("wild", [1e30, np.inf, np.nan])
def test_wild_numbers_that_no_input_reaches_hide_no_mark(story, tmp_path, wild):
    """A thief who sets what is dead to anything, in every matrix, does not change the model."""
    suspect = mixed(story, tmp_path / "suspect", {"copyalice": 0.5, "peer": 0.5}, dead(wild))
    report = trace(story, suspect)
    assert report.found and report.traces[0].licensee == "alice"
    assert report.traces[0].weight == pytest.approx(0.5, abs=0.15)


def test_a_matrix_that_was_overwritten_hides_no_mark(story, tmp_path):
    parts = {"copyalice": 0.5, "peer": 0.5}
    suspect = numbers_of(mixed(story, tmp_path / "merged", parts))
    largest = max((n for n in suspect if "layers.0" in n), key=lambda name: suspect[name].size)
    suspect[largest] += np.random.default_rng(0).normal(size=suspect[largest].shape)
    made = save(tmp_path / "made", {n: v.astype("<f4") for n, v in suspect.items()}, CONFIG)
    report = trace(story, made)
    assert report.found and report.traces[0].licensee == "alice"
    assert report.traces[0].weight == pytest.approx(0.5, abs=0.15)


def test_the_command_says_who_and_answers_by_its_exit_code(story, tmp_path, capsys):
    unmergeable_key = tmp_path / "owner.key"
    unmergeable_key.write_text(
        json.dumps({
            "format": "unmergeable-key", "version": 1, "id": KEY.id,
            "secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        })
    )  # fmt: skip
    unmergeable_key.chmod(0o600)
    owned = ["--base", str(story / "base"), "--key", str(unmergeable_key), "--licensee", "alice"]
    copy = str(tmp_path / "copy")
    assert main(["protect", str(story / "expert"), copy, "--defence", "mark+lock", *owned]) == 0
    common = ["--original", str(story / "expert"), *owned]
    assert main(["trace", copy, *common]) == 0
    assert "contains the copy of alice" in capsys.readouterr().out
    assert main(["trace", str(story / "peer"), *common, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["found"] is False and document["tests"] == 2
    keyless = ["--base", str(story / "base"), "--original", str(story / "expert")]
    assert main(["trace", str(story / "copy"), *keyless]) == 1
    said = capsys.readouterr().out
    assert "a lead, and no proof" in said and "No evidence of the expert" in said


def test_what_cannot_be_said_is_not_said(story, tmp_path):
    other = save(tmp_path / "wide", llama_weights(3), LLAMA)
    with pytest.raises(InputError, match="not of one family"):
        trace(story, other)
    far = save(tmp_path / "far", llama_weights(9, "F32", CONFIG), CONFIG)
    with pytest.raises(InputError, match="This is not its base"):
        unmergeable.trace(far, base=far, original=story / "expert", key=KEY)
    with pytest.raises(InputError, match="each licensee once"):
        trace(story, story / "copy", licensees=("alice", "alice"))


@pytest.fixture(scope="session")
def twins(story, tmp_path_factory):
    """The expert's twins: what they all learnt, and as much of its own as the expert has."""
    root = tmp_path_factory.mktemp("twins")
    base, expert = numbers_of(story / "base"), numbers_of(story / "expert")

    def own(number):
        draw = np.random.default_rng(100 + number)
        return {n: 0.6 * draw.normal(size=w.shape) * (w - base[n]).std() for n, w in expert.items()}

    experts_own = own(0)
    for number in range(19):
        of_twin = own(number + 1)
        made = {n: (w - experts_own[n] + of_twin[n]).astype("<f4") for n, w in expert.items()}
        save(root / str(number), made, CONFIG)
    return [root / str(number) for number in range(19)]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"expert": 1.0}, True),
        ({"expert": 0.3, "peer": 0.7}, True),
        ({"twin": 0.5, "peer": 0.5}, False),
        ({"peer": 1.0}, False),
    ],
)
def test_an_unmarked_expert_is_told_from_its_twins(story, twins, tmp_path, parts, found):
    """What was made from one of them, or from none, is not said to be made from the expert."""
    places = {"twin": twins[3], **{name: story / name for name in ("base", "expert", "peer")}}
    root = tmp_path / "all"
    root.mkdir()
    for name, place in places.items():
        (root / name).symlink_to(place)
    suspect = mixed(root, tmp_path / "suspect", parts)
    report = trace(story, suspect, key=None, twins=twins, siblings=[story / "peer"])
    result = report.twins
    assert report.found == result.found == found and not report.traces
    assert (result.p == pytest.approx(0.05)) == found and result.twins == 19
    if "twin" in parts:
        assert max(result.others) == result.others[3] > result.similarity


def test_a_rank_holds_for_what_was_made_of_none_of_them(story, twins, tmp_path):
    """The expert is first among twenty about once in twenty suspects."""
    ranks = []
    for seed in range(12):
        weights = tuned(numbers_of(story / "base"), 500 + seed)
        suspect = save(tmp_path / str(seed), weights, CONFIG)
        ranks.append(trace(story, suspect, key=None, twins=twins).twins.p)
    assert np.mean(np.array(ranks) <= 0.05) < 0.3 and np.mean(np.array(ranks) <= 0.5) > 0.1


def test_fewer_twins_than_an_error_rate_needs_are_refused(story, twins):
    with pytest.raises(InputError, match="needs 19"):
        trace(story, story / "peer", key=None, twins=twins[:18])
    with pytest.raises(InputError, match="needs 99"):
        trace(story, story / "peer", key=None, twins=twins, error_rate=0.01)
    with pytest.raises(InputError, match="needs 39"):
        trace(story, story / "peer", key=None, twins=twins, suspects=2)
    with pytest.raises(InputError, match="a key or twins"):
        trace(story, story / "peer", twins=twins)


def test_weights_of_known_models_are_a_lead_and_find_nothing(story, tmp_path):
    suspect = mixed(story, tmp_path / "suspect", {"expert": 0.3, "peer": 0.6})
    report = trace(story, suspect, key=None, siblings=[story / "peer"])
    weights = list(report.composition.values())
    assert weights == pytest.approx([0.3, 0.6], abs=0.01) and report.explained > 0.99
    assert not report.found and report.twins is None
    away = mixed(story, tmp_path / "away", {"expert": -0.5, "peer": 0.6})
    assert trace(story, away, key=None, siblings=[story / "peer"]).composition[
        str(story / "expert")
    ] == pytest.approx(0, abs=0.01)


def test_a_mark_asks_for_what_it_needs(story, tmp_path):
    with pytest.raises(InputError, match="--base"):
        unmergeable.protect(story / "expert", tmp_path / "out", KEY, defence="mark")
    with pytest.raises(InputError, match="nothing was fine-tuned"):
        unmergeable.protect(
            story / "base", tmp_path / "out", KEY, defence="mark", base=story / "base"
        )
    with pytest.raises(InputError, match="must come first"):
        unmergeable.protect(
            story / "expert", tmp_path / "out", KEY, defence="lock+mark", base=story / "base"
        )
    with pytest.raises(InputError, match="would not have the mark"):
        unmergeable.protect(
            story / "expert", tmp_path / "out", KEY, defence="mark+mergebarrier",
            base=story / "base",
        )  # fmt: skip
    with pytest.raises(KeyFileError):
        unmergeable.unlock(story / "locked", tmp_path / "out", Key(bytes(32)))
