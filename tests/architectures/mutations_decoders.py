"""What `test_mutations.py` breaks in dense decoders, and what no output shows."""

# Rows whose every declaration is broken in turn, by data file.
MUTATED = {
    "qwen3": "qwen3", "gemma2": "gemma2", "gemma3": "gemma3_text", "phi": "phi",
    "phi4-mini": "phi3", "olmo2": "olmo2", "stablelm": "stablelm", "stablelm2": "stablelm",
    "starcoder2": "starcoder2", "cohere": "cohere", "cohere-normed": "cohere", "glm4": "glm4",
    "falcon": "falcon",
    "falcon-alibi": "falcon", "gptj": "gptj", "gpt-neox": "gpt_neox", "opt": "opt",
    "bloom": "bloom", "mpt": "mpt", "gpt-neo": "gpt_neo", "codegen": "codegen", "xglm": "xglm",
    "nemotron": "nemotron", "gpt-bigcode": "gpt_bigcode",
}  # fmt: skip

# The softmax over keys does not see a key bias that no rotary turns, whole or in part.
_KEY_BIAS = r"k_proj\.bias\?? .*(still_rest| rest\])"
UNSEEN = {
    "phi": _KEY_BIAS,
    "stablelm": _KEY_BIAS,
    "glm4": _KEY_BIAS,
    "nemotron": _KEY_BIAS,
    "gpt_neox": r"query_key_value\.bias\? .*(\[qk\* still_rest| rest\] vo)",
    "falcon": r"query_key_value\.bias\? .*\) (still_qk|qk|vo\*) vo",
    "bloom": r"query_key_value\.bias \(head \[qk (still_qk|qk|vo\*) ",
    "gpt_bigcode": r"c_attn\.bias .*\) (still_qk|qk|vo\*) vo",
    "opt": r"k_proj\.bias",
    "xglm": r"k_proj\.bias",
}

# The next larger group, or one on what is fixed.
TOO_LARGE = [
    ("qwen3", "qk", "rotary half quarter turns"),  # the gains are shared by the heads
    ("gemma3", "qk", "rotary half"),
    ("olmo2", "qk", "rotary half"),
    ("olmo-clipped", "qk", "rotary half"),
    ("olmo-clipped", "vo", "linear"),
    ("olmo", "residual", "signed permutation"),
    ("phi-normed", "rest", "permutation"),
    ("phi-normed", "qk", "rotary half signs"),
    ("stablelm2", "qk", "rotary half signs"),
    ("stablelm2", "group", "permutation"),
    ("starcoder2", "ffn", "signed permutation"),
    ("cohere", "residual", "signed permutation"),
    ("cohere", "qk", "rotary half"),
    ("cohere-normed", "qk", "rotary interleaved"),
    ("falcon-multi-query", "qk", "linear"),
    ("falcon-alibi", "group", "permutation"),
    ("gptj", "qk", "rotary half"),
    ("gpt-neox", "qk", "linear"),
    ("opt-350m", "word", "scaled permutation"),
    ("bloom", "head", "permutation"),
    ("mpt-clipped", "qk", "linear"),
    ("mpt-clipped", "vo", "scaled permutation"),
    ("smollm3", "qk", "linear"),  # exact on the layers without rotary, which are not all
    ("xglm", "residual", "permutation"),
    ("nemotron", "ffn", "positive scaled permutation"),  # its ReLU is squared
    ("nemotron", "qk", "linear"),
    ("ernie4.5", "qk", "rotary half"),
    ("hunyuan", "qk", "rotary half quarter turns"),
    ("exaone4", "qk", "rotary half quarter turns"),
    ("apertus", "ffn", "positive scaled permutation"),
]
