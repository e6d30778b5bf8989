"""An adapter's config: known fields pass, others are refused by name, and no value does harm."""

import json
import os
import random
import time

import pytest

from unmergeable.checkpoint.adapter_config import CONFIG, rank_of, read_config, scale_of
from unmergeable.errors import InputError, UnmergeableError, UnsupportedError

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
MODULE = "model.layers.1.mlp.down_proj"


def written(folder, **changes):
    (folder / CONFIG).write_text(json.dumps({**PLAIN, **changes}))
    return folder


@pytest.mark.parametrize(
    ("patterns", "alpha"),
    [
        ({}, 8),
        ({"down_proj": 3}, 3),
        ({"down": 3}, 8),
        ({"own_proj": 3}, 8),  # a name is whole
        ({r"layers\.\d+\.mlp\.down_proj": 3, "down_proj": 5}, 3),  # the first counts
        ({"down.proj": 5, r"layers\.1\.mlp\.down_proj": 3}, 5),
        ({f"^{MODULE}": 3}, 3),
        ({"layers.0.mlp.down_proj": 3}, 8),
        ({"mlp|down_proj": 3}, 3),
        ({"[^.]*_proj": 0.5}, 0.5),
        (None, 8),
    ],
)
def test_patterns_are_read_as_peft_reads_them(tmp_path, patterns, alpha):
    config = read_config(written(tmp_path, alpha_pattern=patterns))
    assert scale_of(config, MODULE, 4) == alpha / 4
    assert scale_of({**config, "use_rslora": True}, MODULE, 4) == alpha / 2
    ranks = None if patterns is None else dict.fromkeys(patterns, 6)
    assert rank_of({**PLAIN, "rank_pattern": ranks}, MODULE) == (4 if alpha == 8 else 6)


def test_patterns_agree_with_peft(tmp_path):
    from peft.utils.other import get_pattern_key

    choose = random.Random(0)
    pieces = [
        "down_proj",
        "layers",
        r"\.",
        r"\d+",
        ".*",
        "mlp",
        "(up|down)_proj",
        "1",
        "[^.]*",
        "|",
    ]
    for _ in range(300):
        keys = ["".join(choose.choices(pieces, k=choose.randint(1, 4))) for _ in range(2)]
        patterns = {key: place for place, key in enumerate(keys)}
        wanted = patterns.get(get_pattern_key(patterns, MODULE), 8)
        try:
            config = read_config(written(tmp_path, alpha_pattern=patterns))
        except InputError as error:
            assert "repeats" in str(error)
            continue
        assert scale_of(config, MODULE, 1) == wanted, patterns


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_replication", [[0, 2]]),
        ("use_bdlora", {"nblocks": 2}),
        ("target_parameters", ["experts.down_proj"]),
        ("alora_invocation_tokens", [1]),
        ("use_qalora", True),
        ("megatron_config", {"tp": 2}),
        ("monteclora_config", {"num_samples": 8}),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 1}),
        ("velora_config", {"scale": 1}),
        ("enable_lora", [True, False]),
        ("a_field_of_tomorrow", "x" * 100_000),
        *(("init_lora_weights", way) for way in ("pissa", "olora", "OLORA", "corda", "loftq")),
        *(("init_lora_weights", way) for way in ("lora_ga", "pissa_niter_16", "", 2, ["eva"], {})),
        *(("peft_type", kind) for kind in ("XLORA", "VERA", "IA3", "OFT", "LOHA", None, [], 3)),
    ],
)
def test_what_cannot_follow_is_refused_by_name(tmp_path, field, value):
    name = "type" if field == "peft_type" else field
    with pytest.raises(UnsupportedError, match=name) as caught:
        read_config(written(tmp_path, **{field: value}))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("empty", [None, False, 0, "", [], {}])
def test_a_field_that_is_empty_says_nothing(tmp_path, empty):
    read_config(written(tmp_path, a_field_of_tomorrow=empty, kasa_config=empty))


@pytest.mark.parametrize("way", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_beginnings_that_leave_the_model_as_it_is_pass(tmp_path, way):
    read_config(written(tmp_path, init_lora_weights=way, loftq_config={"loftq_bits": 4}))


DEEP = "[" * 100_000
HOSTILE = [
    *(("r", value) for value in (0, -1, 1e9, 10**9, 10**40, "8", True, None, [8], {}, 4.5)),
    *(("lora_alpha", value) for value in ("8", None, [1], {}, True, 1e300, 10**400)),
    *(("rank_pattern", value) for value in ([1], "q", 3, {"q": "4"}, {"q": 0}, {"q": [1]})),
    *(("alpha_pattern", value) for value in ([1], "q", {"q": None}, {"q": {}}, {"(": 1})),
    *(("alpha_pattern", {key: 1}) for key in ("(.*)*x", "(a|a)*b", "((a+)b?)+c", ".*" * 9)),
    *(("alpha_pattern", {key: 1}) for key in (r"(\w+\.?){9,}x", "(" * 500, "a{99999999999}")),
    *(("alpha_pattern", {key: 1}) for key in ("a" * 9999, "[")),
    *((name, value) for name in ("use_dora", "use_rslora", "lora_bias") for value in ("yes", 3)),
    ("task_type", ["SEQ_CLS"]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), HOSTILE, ids=lambda value: repr(value)[:40])
def test_values_that_nobody_can_use_are_refused_in_a_sentence(tmp_path, field, value):
    start = time.monotonic()
    with pytest.raises(InputError, match=field) as caught:
        read_config(written(tmp_path, **{field: value}))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", DEEP.encode(), b'{"r": ' + DEEP.encode(), b"1" * 9999,
     b'{"peft_type": "LORA", "r": ' + b"9" * 5000 + b"}", b" " * (16 << 20) + b"{}"],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_a_config_that_is_none_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(UnmergeableError) as caught:
        read_config(tmp_path)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / CONFIG)
    with pytest.raises(InputError, match="is a named pipe"):
        read_config(tmp_path)


def test_configs_changed_at_random_are_taken_or_refused_in_a_sentence(tmp_path):
    choose = random.Random(0)
    fields = [*PLAIN, "alpha_pattern", "rank_pattern", "init_lora_weights", "use_dora", "revision"]
    fields += ["auto_mapping", "task_type", "modules_to_save", "trainable_token_indices"]
    values = [None, True, False, 0, -1, 3, 1e308, 10**30, "", "x", "(", "LORA", [], [1], {}, [[[]]]]
    values += [{"a": 1}, {"a": "b"}, {"(a+)+": 2}, "\ud800", "a\nb", {"": 3}, {"a": [1]}]
    taken = 0
    for _ in range(1000):
        changes = {
            choose.choice(fields): choose.choice(values) for _ in range(choose.randint(1, 3))
        }
        try:
            config = read_config(written(tmp_path, **changes))
            scale_of(config, MODULE, rank_of(config, MODULE))
            taken += 1
        except UnmergeableError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 600
    assert 50 < taken < 950
