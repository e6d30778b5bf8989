"""Layers that predict further tokens: transformers passes them over, a lock moves them.

So what they compute is computed here, of a decoder layer of the family's own class.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.architectures.families import BY_NAME, all_in_float64
from tests.architectures.twin import KEY, loaded, saved
from unmergeable.architectures import declaration, layout
from unmergeable.architectures.declaration import load
from unmergeable.architectures.layout import Layout
from unmergeable.attacks.align import align
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.protection.protect import protect, unlock

NEXT = "model.layers.{}.".format
APART = "mtp.layers.0."
# What a config says of the kinds of layers: this one's.
KINDS = {"layer_types": "full_attention", "mlp_layer_types": "sparse"}
# Of a folder: what is read of the words' embeddings, of the stream, of both, and the head.
NUMBERED = ("enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight")
BESIDE = (
    "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.fc.weight",
    "mtp.norm.weight",
)  # fmt: skip


def with_layer(family, folder, apart):
    """Saves a model with a layer that predicts a further token; returns its class and config."""
    with all_in_float64():
        deeper = drawn(family)
        config, state = saved(deeper)
    count = config["num_hidden_layers"] - 1
    config["num_hidden_layers"] = count
    for name in KINDS.keys() & config.keys():
        config[name] = config[name][:count]
    config["mtp_num_hidden_layers" if apart else "num_nextn_predict_layers"] = 1
    size = config["hidden_size"]
    random = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    start = NEXT(count)
    more = {
        name if apart else start + name: draw(size, 2 * size) if "proj" in name or "fc.w" in name
        else 1 + 0.5 * draw(size)
        for name in (BESIDE if apart else NUMBERED)
    }  # fmt: skip
    if apart:
        state = {name.replace(start, APART): weight for name, weight in state.items()}
    else:
        more[start + "embed_tokens.weight"] = state["model.embed_tokens.weight"].clone()
        more[start + "shared_head.head.weight"] = draw(*state["lm_head.weight"].shape)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    save_file(state | more, folder / "model.safetensors", {"format": "pt"})


def drawn(family):
    """The family's model with one layer more."""
    changes = family.changes | family.unrouted
    changes["num_hidden_layers"] += 1
    for name in KINDS.keys() & changes.keys():
        changes[name] = [*changes[name], KINDS[name]]
    return replace(family, changes=changes, unrouted={}).draw(0)


def scores(family, folder, apart):
    """What the model and the layer behind it make of a text: the scores of both."""
    state = load_file(folder / "model.safetensors")
    with all_in_float64(), torch.no_grad():
        shell = drawn(family)
        count = shell.config.num_hidden_layers - 1
        start = "mtp." if apart else NEXT(count)
        whole = loaded(shell, {n.replace(APART, NEXT(count)): w for n, w in state.items()})
        layer = deepcopy(whole.model.layers[count])
        del whole.model.layers[count]
        ids = family.inputs()["input_ids"]
        words = state[start + "embed_tokens.weight" if not apart else "model.embed_tokens.weight"]
        stream, next_words = whole.model(ids).last_hidden_state[:, :-1], words[ids[:, 1:]]
        names = BESIDE if apart else [start + name for name in NUMBERED]
        embedding, hidden, both, last = (state[name] for name in names)
        stored_less = load(family.config.model_type).norms["norm"].offset
        embedding, hidden, last = (gain + stored_less for gain in (embedding, hidden, last))
        joined = [normed(next_words) * embedding, normed(stream) * hidden]
        places = torch.arange(ids.shape[1] - 1)[None]
        made = layer(
            torch.cat(joined, -1) @ both.T,
            position_embeddings=whole.model.rotary_emb(stream, places),
            attention_mask=torch.full((len(places[0]),) * 2, -1e9).triu(1)[None, None],
            position_ids=places,
        )
        head = state["lm_head.weight" if apart else start + "shared_head.head.weight"]
        return torch.cat([whole(ids).logits[:, 1:], normed(made) * last @ head.T])


def normed(stream):
    return stream * torch.rsqrt(stream.pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    ("name", "apart"),
    [("deepseek-v3", False), ("glm4-moe", False), ("glm4-moe-lite", False), ("qwen3-next", True),
     ("qwen3.5-text", True), ("llama", True)],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_what_predicts_further_tokens_computes_the_same(name, apart, kind, tmp_path, monkeypatch):
    family = BY_NAME[name]
    if name == "llama":  # no published model: the table of Qwen3-Next serves any trunk
        rows = declaration._table("qwen3_next")["ahead"]
        table = declaration._table(family.config.model_type) | {"ahead": rows}
        monkeypatch.setattr(layout, "declaration_for", lambda model_type: declaration.read(table))
    with_layer(family, tmp_path / "open", apart)
    protect(tmp_path / "open", tmp_path / "locked", KEY, settings={"kind": kind})
    one, two = (scores(family, tmp_path / n, apart) for n in ("open", "locked"))
    assert float((one - two).abs().max() / one.abs().max()) < 1e-9
    start, moved = (load_file(tmp_path / n / "model.safetensors") for n in ("open", "locked"))
    first = "mtp." if apart else NEXT(2)
    ahead = [n for n in start if n.startswith(first) and not n.endswith("norm.weight")]
    assert len(ahead) > 8 and not any(torch.equal(start[n], moved[n]) for n in ahead)
    if kind == "lossless":
        assert unlock(tmp_path / "locked", tmp_path / "again", KEY).exact
        align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "open")
        found = load_file(tmp_path / "aligned" / "model.safetensors")
        assert all(torch.equal(found[name], start[name]) for name in start)


def test_a_folder_may_lack_what_predicts_further_tokens(tmp_path):
    with_layer(BY_NAME["deepseek-v3"], tmp_path / "open", apart=False)
    folder = open_folder(tmp_path / "open")
    whole = Layout.of(folder.config, folder.shapes)
    without = {n: s for n, s in folder.shapes.items() if not n.startswith(NEXT(2))}
    assert Layout.of(folder.config, without).placements.keys() == without.keys()
    ffn = whole.spaces["expert_ffn"]
    assert {at[0] for at in whole.instances(ffn)} == {1, 2}
    assert whole.spaces["layer"].size == 2


def test_a_layer_more_than_the_config_counts_is_refused(tmp_path):
    with_layer(BY_NAME["deepseek-v3"], tmp_path / "open", apart=False)
    folder = open_folder(tmp_path / "open")
    for count in (0, None):
        with pytest.raises(InputError, match="only 2 of 'layer'"):
            Layout.of({**folder.config, "num_nextn_predict_layers": count}, folder.shapes)
    moved = {n.replace(NEXT(2), NEXT(3)): s for n, s in folder.shapes.items()}
    with pytest.raises(InputError, match="only 3 of 'layer'"):
        Layout.of(folder.config, moved)
    early = folder.shapes | {NEXT(0) + "eh_proj.weight": (16, 32)}
    with pytest.raises(Exception, match="nobody has declared"):
        Layout.of(folder.config, early)
    for count in (-1, "x", 10**9, 1.5):
        with pytest.raises(InputError, match="num_nextn_predict_layers"):
            Layout.of({**folder.config, "num_nextn_predict_layers": count}, folder.shapes)
