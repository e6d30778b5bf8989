"""A tiny Llama, a word tokenizer and a made-up task: does the text name an animal or a plant?"""

import random
from functools import cache

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.tiny import llama_in_memory
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.task import Item
from unmergeable.models.model_runner import ModelRunner

WORDS = ["cat", "dog", "hen", "oak", "elm", "fir"]
FILLERS = [f"w{i}" for i in range(20)]
VOCABULARY = ["<pad>", "is", ":", "animal", "plant", *WORDS, *FILLERS]


def items(count, seed):
    draw = random.Random(seed)
    out = []
    for _ in range(count):
        word = draw.randrange(6)
        text = draw.choices(FILLERS, k=draw.randrange(12))
        text.insert(draw.randrange(len(text) + 1), WORDS[word])
        out.append(Item(" ".join(text), word // 3))
    return tuple(out)


TASK = WordTask(
    name="living",
    title="living things",
    template="{text} is :",
    words=("animal", "plant"),
    train=items(96, 0),
    test=items(90, 1),
)


@cache
def tokenizer():
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<pad>"))
    core.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<pad>")


def model(seed=0):
    return llama_in_memory(
        seed, vocab_size=len(VOCABULARY), max_position_embeddings=64, tie_word_embeddings=True
    )


def runner(module=None):
    return ModelRunner(module or model(), tokenizer())


def save(module, folder):
    module.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
