"""The programs of `consumers.py`: how each reads a model folder, and what it makes of it first."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

CONTINUED = 16  # tokens after each prompt
Ids = list[int]


class Absent(Exception):  # noqa: N818
    """A program is not here; says what is missing."""


@dataclass(frozen=True)
class Sample:
    """What models are read on: token ids of passages and of prompts."""

    passages: list[Ids]
    prompts: list[Ids]

    @property
    def targets(self) -> Ids:
        """The tokens that come next, in the order of the positions of a reading."""
        return [token for ids in self.passages for token in ids[1:]]


@dataclass(frozen=True)
class Reading:
    """What a model says.

    Attributes:
        logits: of the next token in the passages, float32, (positions, vocabulary).
        greedy: the continuation of each prompt.
    """

    logits: np.ndarray
    greedy: list[Ids]


# What a program is given and what it gives: a format, and the reading of each folder in it.
Folders = dict[str, Path]
Readings = Iterator[tuple[str, dict[str, Reading]]]


@dataclass(frozen=True)
class Program:
    """A consumer of model folders: the packages that it is, and how it reads models.

    Its `read` is given the folders, the sample, a folder to work in, and llama.cpp's converter.
    """

    packages: tuple[str, ...]
    read: Callable[[Folders, Sample, Path, Path | None], Readings]

    def versions(self) -> list[str]:
        """The installed version of each package.

        Raises:
            Absent: one is not installed.
        """
        found = []
        for package in self.packages:
            try:
                found.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                raise Absent(f"{package} is not installed") from None
        return found


def reading(
    logits: Callable[[Ids], np.ndarray],
    sample: Sample,
    greedy: Callable[[Ids], Ids] | None = None,
) -> Reading:
    """Reads a model.

    Args:
        logits: of all positions of a sequence, (tokens, vocabulary).
        sample: what it is read on.
        greedy: how it goes on after a prompt, where it has a quicker way than `logits`.
    """

    def slow(ids: Ids) -> Ids:
        found = list(ids)
        for _ in range(CONTINUED):
            found.append(int(logits(found)[-1].argmax()))
        return found[len(ids) :]

    found = np.concatenate([logits(ids)[:-1].astype(np.float32) for ids in sample.passages])
    return Reading(found, [(greedy or slow)(ids) for ids in sample.prompts])


# transformers and torch ---------------------------------------------------------------------------


def load(folder: Path) -> Any:
    """A model in float32, by stock transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def transformers_reading(model: Any, sample: Sample) -> Reading:
    """Reads a model of transformers, whatever was made of its layers."""
    import torch

    def logits(ids: Ids) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].float().numpy()

    def greedy(ids: Ids) -> Ids:
        exact = {"max_new_tokens": CONTINUED, "min_new_tokens": CONTINUED, "do_sample": False}
        mask = torch.ones(1, len(ids), dtype=torch.long)
        out = model.generate(torch.tensor([ids]), attention_mask=mask, **exact)
        return out[0, len(ids) :].tolist()

    return reading(logits, sample, greedy)


def stock(folders: Folders, sample: Sample, scratch: Path, converter: Path | None) -> Readings:
    """Transformers itself, in float32: the other rows are read against it."""
    found = {name: transformers_reading(load(folder), sample) for name, folder in folders.items()}
    yield "transformers, float32", found


def torch_int8(folders: Folders, sample: Sample, scratch: Path, converter: Path | None) -> Readings:
    """PyTorch's dynamic quantisation of every linear layer, a scale per tensor or per row."""
    import torch
    from torch.ao import quantization

    schemes = {
        "a scale per tensor": quantization.default_dynamic_qconfig,
        "a scale per row": quantization.per_channel_dynamic_qconfig,
    }
    for scheme, config in schemes.items():
        found = {}
        for name, folder in folders.items():
            model = quantization.quantize_dynamic(load(folder), {torch.nn.Linear: config})
            found[name] = transformers_reading(model, sample)
        yield f"torch dynamic int8, {scheme}", found


# llama.cpp ----------------------------------------------------------------------------------------

FORMATS = ("F32", "Q8_0", "Q4_K_M")


def llama_cpp(folders: Folders, sample: Sample, scratch: Path, converter: Path | None) -> Readings:
    """Its converter, its quantisation, its Python binding."""
    if converter is None:
        raise Absent("--converter does not say where llama.cpp's convert_hf_to_gguf.py is")
    plain = {}
    for name, folder in folders.items():
        plain[name] = scratch / f"{name}.gguf"
        command = [sys.executable, converter, folder, "--outfile", plain[name], "--outtype", "f32"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{converter} refuses the {name} model:\n{done.stderr[-2000:]}")
    for form in FORMATS:
        found = {name: gguf_reading(file, form, sample) for name, file in plain.items()}
        yield f"llama.cpp, {form}", found


def gguf_reading(file: Path, form: str, sample: Sample) -> Reading:
    """Reads a GGUF file in float32, quantised first if another format is asked for."""
    import llama_cpp

    made = file
    if form != "F32":
        made = file.with_name(f"{file.stem}-{form}.gguf")
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{form}")
        how.nthread = 1
        names = (str(file).encode(), str(made).encode())
        if llama_cpp.llama_model_quantize(*names, ctypes.byref(how)):
            raise SystemExit(f"llama.cpp cannot quantise {file} to {form}")
    longest = max(map(len, (*sample.passages, *sample.prompts))) + CONTINUED
    one = {"n_threads": 1, "n_threads_batch": 1}
    with plain_buffers():
        llama = llama_cpp.Llama(str(made), n_ctx=longest, logits_all=True, verbose=False, **one)

    def logits(ids: Ids) -> np.ndarray:
        llama.reset()
        llama.eval(ids)
        return np.array(llama.scores[: len(ids)])

    def greedy(ids: Ids) -> Ids:
        found = [int(logits(ids)[-1].argmax())]
        while len(found) < CONTINUED:
            llama.eval(found[-1:])
            found.append(int(llama.scores[llama.n_tokens - 1].argmax()))
        return found

    result = reading(logits, sample, greedy)
    llama.close()
    if made != file:
        made.unlink()
    return result


def plain_buffers() -> Any:
    """While this is open, models are loaded without llama.cpp's buffers for repacked weights.

    Its kernels for AMX come with these buffers. Built by GCC 12, they set up no tiles (the
    compiler's header says that `ldtilecfg` reads 8 bytes, so the others are not stored), and
    the first quantised matrix ends the process with an illegal instruction. `Llama` itself has
    no argument for it.
    """
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False
    return mock.patch.object(llama_cpp.llama_cpp, "llama_model_default_params", lambda: params)


# CTranslate2 --------------------------------------------------------------------------------------


def ctranslate(folders: Folders, sample: Sample, scratch: Path, converter: Path | None) -> Readings:
    """CTranslate2: its converter, in float32 and with a scale for each row of a matrix."""
    import ctranslate2

    for form in ("float32", "int8"):
        found = {}
        for name, folder in folders.items():
            made = str(scratch / f"{name}-{form}")
            ctranslate2.converters.TransformersConverter(str(folder)).convert(
                made, quantization=form
            )
            model = ctranslate2.Generator(made, compute_type=form, intra_threads=1)
            found[name] = reading(lambda ids, model=model: all_logits(model, ids), sample)
            shutil.rmtree(made)
        yield f"CTranslate2, {form}", found


def all_logits(model: Any, ids: Ids) -> np.ndarray:
    """What CTranslate2's generator makes of a sequence, (tokens, vocabulary)."""
    return np.array(model.forward_batch([ids]))[0]


PROGRAMS = {
    "transformers": Program(("transformers", "torch"), stock),
    "torch-int8": Program(("torch",), torch_int8),
    "ctranslate2": Program(("ctranslate2",), ctranslate),
    "llama.cpp": Program(("llama-cpp-python", "gguf"), llama_cpp),
}
