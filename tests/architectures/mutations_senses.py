"""What `test_mutations.py` breaks in models that see or hear, and what no output shows."""

# Rows whose every declaration is broken in turn, by data file.
MUTATED = {
    "dinov3": "dinov3_vit",
    "dinov3-gated": "dinov3_vit",
    "vit-mae": "vit_mae",
    "videomae": "videomae",
    "videomae-painter": "videomae",
    "siglip2": "siglip2",
    "wavlm": "wavlm",
    "sew": "sew",
    "swinv2": "swinv2",
    "layoutlmv3": "layoutlmv3",
    "segformer": "segformer",
    "moonshine": "moonshine",
    "blip": "blip",
    "parakeet-encoder": "parakeet_encoder",
    "wav2vec2-bert": "wav2vec2_bert",
    "convnext": "convnext",
    "convnextv2": "convnextv2",
    "dinov3-convnext": "dinov3_convnext",
    "trocr-decoder": "trocr",
    "vit-mbart": "vision_encoder_decoder",
    "roberta2gpt2": "encoder_decoder",
    "bert-decoder": "bert",
    "gpt2-decoder": "gpt2",
    "detr": "detr",
}

# The softmax over keys does not see a key bias that no rotary turns.
UNSEEN = {
    "dinov3_vit": r"mask_token",  # for training
    "vit_mae": r"key\.bias",
    "layoutlmv3": r"key\.bias",
    "segformer": r"self\.key\.bias",
    "wav2vec2_bert": r"linear_k\.bias|masked_spec",  # masks are for training
    "moonshine": r"k_proj\.bias",
    "trocr": r"k_proj\.bias",
    "detr": r"k_proj\.bias",
    "parakeet_encoder": r"k_proj\.bias",
    "blip": r"key\.bias|"
    r"qkv\.bias\? \[\(vision_head vision_qk\) \(\w+ \w+\*?\) \(vision_head vision_vo\)\]",
    "wavlm": r"k_proj\.bias",
    "sew": r"k_proj\.bias",
    "siglip2": r"k_proj\.bias|"
    r"in_proj_bias\? \[\(pool_head pool_qk\) \(\w+ \w+\*?\) \(pool_head pool_vo\)\]",
}

# The next larger group, or one on what is fixed.
TOO_LARGE = [
    ("dinov3", "qk", "linear"),
    ("dinov3", "qk", "rotary interleaved"),
    ("videomae", "residual", "permutation"),
    ("moonshine", "qk", "rotary half"),
    ("swinv2", "stage0_qk", "linear"),
]
