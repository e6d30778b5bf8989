"""One row per model class: a tiny seeded model whose weights are all random and not small."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
import transformers
from torch import nn

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

VOCAB = 61


@dataclass(frozen=True, eq=False)
class Family:
    """A tiny model: its class, its config, what it is fed, and which spaces are fixed in it.

    `unrouted` are settings under which a router has no choice left: all experts are asked. Rounding
    to bfloat16 turns near ties of a router, of the open model as of the locked one.
    """

    name: str
    model: str
    config: Callable[..., Any]
    changes: dict[str, Any] = field(default_factory=dict)
    image: bool = False
    decoder: bool = False
    unrouted: dict[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    feed: Callable[[torch.dtype, bool], dict[str, Any]] | None = None

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """A model of its own for each caller."""
        return deepcopy(_drawn(self, seed, torch.get_default_dtype())).to(dtype)

    def draw(self, seed: int) -> nn.Module:
        """Draws the model in float64."""
        torch.manual_seed(seed)
        config = self.config(**self.changes)
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"  # the default knows no float64
        model = getattr(transformers, self.model)(config).eval().to(torch.float64)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                # Sinusoids, which some models compute anew; others store them: zeros as yet. A
                # convolution of a backbone is none.
                if not weight.requires_grad and weight.any() and weight.ndim < 4:
                    continue
                # Gains around one, biases and everything else around zero: nothing is left at a
                # value that a wrong transform would leave alone too.
                gain = name.endswith(("norm.weight", "LayerNorm.weight", "lambda1")) or any(
                    part in name for part in ("layernorm", "norm1.w", "norm2.w", "ln_")
                )
                pointwise = weight.shape[2:] == (1, 1)  # a matrix, as a convolution
                scale = (
                    0.5
                    if weight.ndim < 2 or gain
                    else 1.5 * weight.shape[1 if pointwise else -1] ** -0.5
                )
                if name.endswith("Attention.q.weight"):  # T5 does not divide its scores later
                    scale *= config.d_kv**-0.5
                weight.copy_(torch.randn_like(weight) * scale + (1.0 if gain else 0.0))
            for name, tensor in (*model.named_buffers(), *model.named_parameters()):
                # Trained, though no parameter, or one that has no gradient.
                if name.endswith(("e_score_correction_bias", "expert_bias")):
                    tensor.copy_(torch.randn_like(tensor) * 0.6)
                if name.endswith(("running_mean", "running_var")):
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
                if name.endswith(("layer_scalar", "put_max", "std_scale", "std_bias")):
                    tensor.copy_(0.5 + torch.rand_like(tensor))
                if name.endswith("put_min"):
                    tensor.copy_(-0.5 - torch.rand_like(tensor))
        model.tie_weights()
        return model

    @cached_property
    def routerless(self) -> Family:
        """The same with a router that has no choice, if it has one."""
        return replace(self, changes=self.changes | self.unrouted) if self.unrouted else self

    @property
    def bare(self) -> bool:
        """Whether it hands its residual stream to its users."""
        towers = (
            "CLIPTextModel", "CLIPVisionModel", "SmolVLMVision", "Idefics3Vision",
            "Qwen2AudioEncoder", "ParakeetEncoder",
        )  # fmt: skip
        joint = self.model in ("CLIPModel", "SiglipModel", "Siglip2Model")
        heads = ("LMHeadModel", "MTModel", "DecoderModel")
        bare = self.model.endswith("Model") and not self.model.endswith(heads)
        return (bare and not joint) or self.model.startswith(towers)

    @property
    def generates(self) -> bool:
        texts = "Whisper" not in self.model  # which has a test of its own
        # The beginning of a sound is none; BLIP has settings of its own; TrOCR and BERT write as
        # the decoder of another model.
        texts &= not self.model.startswith(("Moonshine", "Blip", "TrOCR", "BertLMHead"))
        ends = ("CausalLM", "LMHeadModel", "ConditionalGeneration", "MTModel")
        return texts and self.model.endswith(ends)

    def inputs(self, dtype: torch.dtype = torch.float32, padded: bool = False) -> dict[str, Any]:
        if self.feed:
            return self.feed(dtype, padded)
        random = torch.Generator().manual_seed(1)
        if self.image:
            return {"pixel_values": torch.randn(3, 3, 16, 16, generator=random).to(dtype)}
        ids = torch.randint(3, VOCAB, (3, 12), generator=random)
        more = {}
        if self.decoder:
            ids[:, -1] = 1  # the end of a sequence: T5's classifier stands on it
            if not self.model.endswith(("SequenceClassification", "QuestionAnswering")):
                more = {"decoder_input_ids": torch.randint(3, VOCAB, (3, 9), generator=random)}
        if not padded:
            return {"input_ids": ids, **more}
        mask = torch.ones_like(ids)
        mask[0, 8:], mask[1, :5] = 0, 0  # padding on the right, padding on the left
        return {"input_ids": ids, "attention_mask": mask, **more}


@lru_cache(maxsize=8)
def _drawn(family: Family, seed: int, default: torch.dtype) -> nn.Module:
    """A family's model in float64: drawn once for the tests that come one after the other.

    Args:
        family: of what.
        seed: of its weights.
        default: the dtype in which transformers draws now.
    """
    return family.draw(seed)


LLAMA = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64,
}  # fmt: skip
BERT = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": VOCAB, "max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {
    "n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": VOCAB, "n_positions": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
VIT = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4, "num_labels": 5,
}  # fmt: skip
DINO = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2,
    "image_size": 16, "patch_size": 4, "num_labels": 5,
}  # fmt: skip
T5 = {
    "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
    "vocab_size": VOCAB, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
}  # fmt: skip
FLAN = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

from tests.architectures.families_decoders import DECODERS  # noqa: E402
from tests.architectures.families_encoders import ENCODERS  # noqa: E402
from tests.architectures.families_images import IMAGES  # noqa: E402
from tests.architectures.families_moe import MOE  # noqa: E402
from tests.architectures.families_recurrent import RECURRENT  # noqa: E402
from tests.architectures.families_seeing import SEEING  # noqa: E402
from tests.architectures.families_senses import SENSES  # noqa: E402
from tests.architectures.families_text import TEXT  # noqa: E402

FAMILIES = [
    Family("llama", "LlamaForCausalLM", transformers.LlamaConfig, LLAMA),
    Family("llama-tied", "LlamaForCausalLM", transformers.LlamaConfig,
           {**LLAMA, "tie_word_embeddings": True}),
    Family("llama-biased", "LlamaForCausalLM", transformers.LlamaConfig,
           {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    Family("llama-own-head-dim", "LlamaForCausalLM", transformers.LlamaConfig,
           {**LLAMA, "head_dim": 8}),
    Family("llama-classifier", "LlamaForSequenceClassification", transformers.LlamaConfig,
           {**LLAMA, "pad_token_id": 0, "num_labels": 4}),
    Family("llama-tokens", "LlamaForTokenClassification", transformers.LlamaConfig, LLAMA),
    Family("llama-bare", "LlamaModel", transformers.LlamaConfig, LLAMA),
    Family("mistral", "MistralForCausalLM", transformers.MistralConfig,
           {**LLAMA, "sliding_window": 5}),
    Family("qwen2", "Qwen2ForCausalLM", transformers.Qwen2Config,
           {**LLAMA, "tie_word_embeddings": False}),
    Family("qwen2-tied", "Qwen2ForCausalLM", transformers.Qwen2Config,
           {**LLAMA, "tie_word_embeddings": True}),
    Family("gpt2", "GPT2LMHeadModel", transformers.GPT2Config, GPT2),
    Family("gpt2-untied", "GPT2LMHeadModel", transformers.GPT2Config,
           {**GPT2, "tie_word_embeddings": False, "n_inner": 40}),
    Family("gpt2-bare", "GPT2Model", transformers.GPT2Config, GPT2),
    Family("bert-masked", "BertForMaskedLM", transformers.BertConfig, BERT),
    Family("bert-pretraining", "BertForPreTraining", transformers.BertConfig, BERT),
    Family("bert-classifier", "BertForSequenceClassification", transformers.BertConfig, BERT),
    Family("bert-tokens", "BertForTokenClassification", transformers.BertConfig, BERT),
    Family("bert-answers", "BertForQuestionAnswering", transformers.BertConfig, BERT),
    Family("bert-bare", "BertModel", transformers.BertConfig, BERT),
    Family("vit-classifier", "ViTForImageClassification", transformers.ViTConfig, VIT, True),
    Family("vit-no-bias", "ViTForImageClassification", transformers.ViTConfig,
           {**VIT, "qkv_bias": False}, True),
    Family("vit-bare", "ViTModel", transformers.ViTConfig, VIT, True),
    Family("dinov2-classifier", "Dinov2ForImageClassification", transformers.Dinov2Config,
           DINO, True),
    Family("dinov2-gated", "Dinov2ForImageClassification", transformers.Dinov2Config,
           {**DINO, "use_swiglu_ffn": True}, True),
    Family("dinov2-bare", "Dinov2Model", transformers.Dinov2Config, DINO, True),
    Family("t5", "T5ForConditionalGeneration", transformers.T5Config, T5, decoder=True),
    Family("t5-gated", "T5ForConditionalGeneration", transformers.T5Config, FLAN, decoder=True),
    Family("t5-gelu", "T5ForConditionalGeneration", transformers.T5Config,
           {**T5, "feed_forward_proj": "gelu"}, decoder=True),
    Family("t5-classifier", "T5ForSequenceClassification", transformers.T5Config,
           {**T5, "num_labels": 40}, decoder=True),
    Family("t5-answers", "T5ForQuestionAnswering", transformers.T5Config, FLAN, decoder=True),
    Family("t5-tokens", "T5ForTokenClassification", transformers.T5Config, T5),
    Family("t5-encoder", "T5EncoderModel", transformers.T5Config, FLAN),
    Family("t5-bare", "T5Model", transformers.T5Config, T5, decoder=True),
    Family("mt5", "MT5ForConditionalGeneration", transformers.MT5Config,
           {**T5, "feed_forward_proj": "gated-gelu"}, decoder=True),
    *MOE,
    *RECURRENT,
    *DECODERS,
    *ENCODERS,
    *IMAGES,
    *TEXT,
    *SENSES,
    *SEEING,
]  # fmt: skip

BY_NAME = {family.name: family for family in FAMILIES}
# The first row of each model type.
ONE_OF_EACH = list({family.config.model_type: family for family in reversed(FAMILIES)}.values())
# One row for each kind of attention, norm, feed-forward network and head: where a test is not about
# what a data file says, they stand for all.
KINDS = [
    BY_NAME[name]
    for name in (
        "llama", "llama-biased", "qwen2-tied", "qwen3", "gemma2", "olmo2", "cohere-normed",
        "apertus", "gpt2", "gpt-neox", "gptj", "phi", "falcon-alibi", "opt-350m", "mixtral",
        "olmoe", "gpt-oss", "deepseek-v3", "bert-classifier", "modernbert-classifier",
        "deberta-v2", "albert-classifier", "t5-gated", "bart", "whisper-classifier",
        "wav2vec2-classifier", "vit-classifier", "dinov2-gated", "beit", "swin",
        "siglip-classifier", "qwen2.5-vl",
    )
]  # fmt: skip


def outputs(model: nn.Module, inputs: dict[str, Any], behind_softmax: bool = False) -> torch.Tensor:
    """Every floating-point output that a user sees, padded positions left out, as one vector.

    Behind a softmax, what all scores have in common does not count.
    """
    with torch.no_grad():
        out = model(**inputs, return_dict=True)
    found = []
    for name, value in out.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        if name == "loss":
            continue  # of models that paint what they are fed: a number made of the others
        if name in ("image_hidden_states", "video_hidden_states", "audio_hidden_states"):
            continue  # an inner state, in the language model's stream
        if name == "encoder_last_hidden_state" and len(out) > 1 and "last_hidden_state" not in out:
            continue  # an inner state of a model with a head; a bare model's output
        if behind_softmax and name.endswith("logits") and value.shape[-1] > 1:
            value = value - value.mean(-1, keepdim=True)
        mask = inputs.get("attention_mask")
        if mask is not None and value.shape[:2] == mask.shape:
            value = value[mask.bool()]
        found.append(value.reshape(-1).double())
    return torch.cat(found)


@contextlib.contextmanager
def all_in_float64() -> Iterator[None]:
    """Keeps transformers from rounding to float32 inside a float64 model (norms, softmax)."""
    to, softmax, default = torch.Tensor.to, nn.functional.softmax, torch.get_default_dtype()
    kind, single, method = torch.Tensor.type, torch.Tensor.float, torch.Tensor.softmax
    one_hot, counted = nn.functional.one_hot, dict[int, torch.Tensor]()

    def keep(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.dtype == torch.float64 and torch.float32 in (*args, kwargs.get("dtype")):
            return self
        return to(self, *args, **kwargs)

    def wide(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if tensor.dtype == torch.float64:
            kwargs.pop("dtype", None)
        return softmax(tensor, *args, **kwargs)

    def keep_kind(self: torch.Tensor, *args: Any) -> Any:
        wide = self.dtype == torch.float64 and args == (torch.float32,)
        return self if wide else kind(self, *args)

    def keep_single(self: torch.Tensor) -> torch.Tensor:
        wide = self.dtype == torch.float64
        return self if wide else self.double() if id(self) in counted else single(self)

    def wide_one_hot(*args: Any, **kwargs: Any) -> torch.Tensor:
        found = one_hot(*args, **kwargs)
        counted[id(found)] = found  # kept, so that no other tensor gets its id
        return found

    def wide_method(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.dtype == torch.float64:
            kwargs.pop("dtype", None)
        return method(self, *args, **kwargs)

    torch.Tensor.to, nn.functional.softmax = keep, wide
    nn.functional.one_hot = wide_one_hot
    torch.Tensor.type, torch.Tensor.float = keep_kind, keep_single
    torch.Tensor.softmax = wide_method
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        torch.Tensor.to, nn.functional.softmax = to, softmax
        nn.functional.one_hot = one_hot
        torch.Tensor.type, torch.Tensor.float, torch.Tensor.softmax = kind, single, method
