# %% [markdown]
# # Protect, merge, align, unlock
#
# Builds a tiny model and downloads nothing: random weights stand in for a base and for two experts
# of it. What can be seen is what happens to *weights*; what that does to accuracy
# is what `unmergeable audit` measures on real models.
#
# Run it as a script, or cell by cell in an editor that knows `# %%`. It needs the extra `audit`.

# %%
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import unmergeable

work = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="unmergeable-example-"))


# %% [markdown]
# ## A base and two experts
# The owner's expert and the peer are the base plus a task vector each.


# %%
def save(name: str, seed: int | None) -> Path:
    """Saves the base, or the base plus a random task vector."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
        )
    )
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=draw)
    model.save_pretrained(work / name)
    return work / name


base, expert, peer = save("base", None), save("expert", 1), save("peer", 2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's tensors by name."""
    return load_file(folder / "model.safetensors")


def distance(one: Path, two: Path) -> float:
    """The distance of two models, relative to the second."""
    a, b = weights(one), weights(two)
    apart = sum((a[name] - b[name]).square().sum() for name in b)
    return float((apart / sum(t.square().sum() for t in b.values())).sqrt())


# %% [markdown]
# ## Protect
# The locked model computes what the expert computes, with other weights.

# %%
key = unmergeable.keygen(work / "owner.key")
unmergeable.protect(expert, work / "locked", key)
report = unmergeable.verify(expert, work / "locked", key=key)
print("same outputs:", report.same)
print(f"distance of the weights: {distance(work / 'locked', expert):.2f}")

# %% [markdown]
# ## Merge
# Averaging with the peer: of the open expert it gives a model between the two. The locked expert's
# weights are in other coordinates, so its average with the peer is far from that.

# %%
for name, owner in (("merged", expert), ("merged-locked", work / "locked")):
    unmergeable.merge([owner, peer], work / name, "linear", parameters={"weight": 0.5})
plain = distance(work / "merged-locked", work / "merged")
print(f"merge of the locked model, distance from the open merge: {plain:.2f}")

# %% [markdown]
# ## Align
# The attack: fit the lock against the public base, without the key. The lock stops a merge tool,
# and does not stop this.

# %%
unmergeable.align(work / "locked", work / "aligned", base=base)
left = distance(work / "aligned", expert)
print(f"after alignment, distance from the expert: {left:.1e}")

# %% [markdown]
# ## Unlock
# The key gives the original back, bit for bit.

# %%
unlocked = unmergeable.unlock(work / "locked", work / "unlocked", key)
open_weights, again = weights(expert), weights(work / "unlocked")
exact = unlocked.exact and all(torch.equal(again[name], open_weights[name]) for name in again)
print("unlocked to the bit:", exact)
