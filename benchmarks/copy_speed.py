"""What locking costs, against copying the same folder and against other tools that rewrite it.

Makes synthetic Llama-shaped bfloat16 folders, then times `cp -r`, protect, unlock, verify's
comparison of weights, mergekit's passthrough and a transformers load and save in turn: wall time
until the data is on the disk, processor time, and peak memory. Prints medians, and ratios within
each turn. `make bench` runs all of it; parts of it, other sizes and places:

    python benchmarks/copy_speed.py --gigabytes 1 4 12 --runs 5 --where /tmp /dev/shm --part lock

Parts: lock (cp, protect, unlock, both kinds), verify, peers, hash, start, growth. The first size is
the one of all parts but growth, which goes through all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from timed_command import HEAD, Job, Run, in_turn, line, spread, timed

HERE = Path(__file__).parent
TMPFS = Path("/dev/shm")
# Memory left to the tools themselves where the folders are in memory, too.
SPARE = 4 << 30
# What a job needs at most besides what it writes.
BESIDE = 1 << 30
TOOL = [sys.executable, "-m", "unmergeable"]
TRANSFORMERS = (
    "import sys; from transformers import AutoModelForCausalLM as A; "
    "A.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[2])"
)
COMPARE = (
    "import sys; from unmergeable.verification.weight_comparison import compare_weights as c; "
    "from unmergeable.checkpoint.folder import open_folder as o; "
    "sys.exit(not c(o(sys.argv[1]), o(sys.argv[2]), sys.argv[3]).same)"
)
LIGHT = (
    "import sys; from unmergeable.cli import main; status = main(sys.argv[1:]); "
    "sys.exit('torch was imported' if 'torch' in sys.modules else status)"
)


@dataclass(frozen=True)
class Bench:
    """Where a benchmark runs and what on.

    Attributes:
        scratch: its folder.
        model: the folder that is locked.
        size: its bytes.
        runs: turns that count.
        roof: bytes per second that the machine can do: memory, disk, hash.
    """

    scratch: Path
    model: Path
    size: int
    runs: int
    roof: dict[str, float]

    @property
    def memory(self) -> int:
        """Bytes that a job may fill, files and its own."""
        return self.size + BESIDE

    @property
    def out(self) -> Path:
        """What jobs make and the clock removes."""
        return self.scratch / "out"

    @property
    def key(self) -> Path:
        """The owner's key."""
        return self.scratch / "key"

    def copy(self) -> Job:
        """What all else is compared with."""
        command = ["cp", "-r", str(self.model), str(self.out)]
        return Job("cp -r", command, self.out, (self.model,))

    def protect(self, kind: str, out: Path | None = None) -> Job:
        """Locks the model."""
        to = out or self.out
        command = [*TOOL, "protect", str(self.model), str(to), "--key", str(self.key)]
        return Job(f"protect, {kind}", [*command, "--set", f"kind={kind}"], to, (self.model,))

    def locked(self, kind: str) -> Path:
        """A locked version, made where it is missing; one of them at a time, to save room."""
        wanted = self.scratch / f"locked-{kind}"
        if not wanted.exists():
            for other in self.scratch.glob("locked-*"):
                shutil.rmtree(other)
            timed(self.protect(kind, wanted).command)
        return wanted

    def table(self, jobs: list[Job]) -> dict[str, list[Run]]:
        """Times jobs in turn, prints their rows and returns their runs."""
        runs = in_turn(jobs, self.runs, memory=self.memory)
        for name, done in runs.items():
            print(line(name, done, runs[jobs[0].name]), flush=True)
        return runs


def lock(bench: Bench) -> None:
    """Protect and unlock against the copy, and how far they are from what the machine can do."""
    for kind in ("lossless", "general"):
        locked = bench.locked(kind)
        back = [*TOOL, "unlock", str(locked), str(bench.out), "--key", str(bench.key)]
        unlock = Job(f"unlock, {kind}", back, bench.out, (locked,))
        runs = bench.table([bench.copy(), bench.protect(kind), unlock])
        if kind == "lossless":
            wall = statistics.median(run.wall for run in runs["protect, lossless"])
            roof, rate = bench.roof, bench.size / wall
            # Read from the page cache, changed, written to it: each is a read and a write.
            print(
                f"  roofline: {rate / 1e9:.2f} GB/s are {rate / roof['disk']:.0%} of a plain write "
                f"to this place ({roof['disk'] / 1e9:.2f} GB/s), and as three copies in memory "
                f"{6 * rate / roof['memory']:.0%} of one core's ({roof['memory'] / 1e9:.1f} GB/s)"
            )


def verify(bench: Bench) -> None:
    """The comparison of weights, against one read of both folders, in memory and on disk."""
    for kind in ("lossless", "general"):
        locked = bench.locked(kind)
        both = (bench.model, locked)
        files = [str(file) for model in both for file in sorted(model.glob("*.safetensors"))]
        read = ["sh", "-c", 'cat "$@" > /dev/null', "sh", *files]
        compare = [sys.executable, "-c", COMPARE, str(bench.model), str(locked), str(bench.key)]
        for cold in (False,) if bench.scratch.is_relative_to(TMPFS) else (False, True):
            where = "from the disk" if cold else "from memory"
            bench.table([
                Job(f"read both folders {where}", read, reads=both, cold=cold),
                Job(f"verify, weights, {kind}", compare, reads=both, cold=cold),
            ])  # fmt: skip


def peers(bench: Bench) -> None:
    """Tools that rewrite a checkpoint without changing it; transformers holds all of it."""
    recipe = bench.scratch / "passthrough.yml"
    recipe.write_text(f"merge_method: passthrough\nmodels:\n  - model: {bench.model}\n"
                      "dtype: bfloat16\n")  # fmt: skip
    mergekit = [str(Path(sys.executable).parent / "mergekit-yaml"), str(recipe), str(bench.out)]
    quiet = ["--no-copy-tokenizer", "--quiet"]
    small = ["--out-shard-size", "500M", "--async-write"]
    both = [sys.executable, "-c", TRANSFORMERS, str(bench.model), str(bench.out)]
    others = {
        "mergekit passthrough": [*mergekit, *quiet],
        "mergekit passthrough, 500M shards": [*mergekit, *quiet, *small],
        "transformers, load and save": both,
    }
    jobs = [Job(name, command, bench.out, (bench.model,)) for name, command in others.items()]
    bench.table([bench.protect("lossless"), *jobs])


def hash_share(bench: Bench) -> None:
    """Protect with the manifest's hashes, against the same without any."""
    probe, files = str(HERE / "protect_probe.py"), [str(bench.model), str(bench.out)]

    def job(what: str, name: str) -> Job:
        command = [sys.executable, probe, what, *files, str(bench.key), "lossless"]
        return Job(name, command, bench.out, (bench.model,))

    unhashed = job("nohash", "protect, lossless, unhashed")
    runs = bench.table([unhashed, job("hash", "protect, lossless, hashed")])
    # What is read, and what is written.
    busy = 2 * bench.size / bench.roof["hash"] / (os.cpu_count() or 1)
    wall = statistics.median(run.wall for run in runs[unhashed.name])
    print(
        f"  roofline: hashing at {bench.roof['hash'] / 1e9:.1f} GB/s a core is {busy:.2f} s of all "
        f"cores, {busy / wall:.0%} of the unhashed run where they have no time to spare",
        flush=True,
    )


def start(bench: Bench) -> None:
    """What starts at once: help, keys, headers; and when the first tensor's first byte is out."""
    for arguments in (["--help"], ["keygen", str(bench.out)], ["inspect", str(bench.model)]):
        seconds = []
        for _ in range(bench.runs + 1):
            seconds.append(timed([sys.executable, "-c", LIGHT, *arguments]).wall)
            bench.out.unlink(missing_ok=True)
        print(f"unmergeable {arguments[0]:<22} {spread(seconds[1:]):>24} s, without torch")
    for kind in ("lossless", "general"):
        firsts = []
        for _ in range(bench.runs + 1):
            probe = [sys.executable, str(HERE / "protect_probe.py"), "first", str(bench.model)]
            more = [str(bench.out), str(bench.key), kind, str(time.time())]
            firsts.append(float(_said([*probe, *more])))
            shutil.rmtree(bench.out)
        print(f"first output byte, {kind:<15} {spread(firsts[1:]):>24} s")


PARTS: dict[str, Callable[[Bench], None]] = {
    "lock": lock, "verify": verify, "peers": peers, "hash": hash_share, "start": start,
}  # fmt: skip


def _said(command: list[str]) -> bytes:
    """What a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def growth(sizes: list[float], where: Path, runs: int) -> None:
    """Wall time and memory by size, and the line through them."""
    points = []
    for gigabytes in sorted(sizes):
        with Place(where, gigabytes) as place:
            if place is None:
                continue
            bench = Bench(*place, runs, {})
            print(f"{bench.size / 1e9:.2f} GB")
            done = bench.table([bench.copy(), bench.protect("lossless")])
            points += [(bench.size / 1e9, run.wall) for run in done["protect, lossless"]]
    if len({x for x, _ in points}) > 1:
        x, y = np.array(points).T
        slope, begin = np.polyfit(x, y, 1)
        left = np.sum((y - slope * x - begin) ** 2) / np.sum((y - y.mean()) ** 2)
        print(f"wall = {begin:.2f} s + {slope:.2f} s per GB, R2 = {1 - left:.3f}")


class Place:
    """A scratch folder with a model and a key in it; None where there is no room."""

    def __init__(self, where: Path, gigabytes: float) -> None:
        self._where, self._gigabytes = where, gigabytes

    def __enter__(self) -> tuple[Path, Path, int] | None:
        self._scratch = Path(tempfile.mkdtemp(prefix="unmergeable-bench-", dir=self._where))
        free = shutil.disk_usage(self._where).free
        if self._where.is_relative_to(TMPFS):  # what is in there is in memory
            lines = Path("/proc/meminfo").read_text().splitlines()
            available = next(int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvail"))
            free = min(free, available - SPARE)
        if free < 3.2e9 * self._gigabytes:
            print(f"{self._where} has no room for three folders of {self._gigabytes:g} GB")
            return None
        model = self._scratch / "model"
        make = [sys.executable, str(HERE / "llama_folder.py"), str(model), str(self._gigabytes)]
        size = int(_said(make))
        _said([*TOOL, "keygen", str(self._scratch / "key")])
        return self._scratch, model, size

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._scratch)


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[4.0, 1.0, 12.0])
    parser.add_argument("--runs", type=int, default=5)
    places = [Path(tempfile.gettempdir()), TMPFS]
    parser.add_argument("--where", type=Path, nargs="+", default=[p for p in places if p.is_dir()])
    parser.add_argument("--part", nargs="+", default=[*PARTS, "growth"])
    options = parser.parse_args()
    for where in options.where:
        roofline = [sys.executable, str(HERE / "roofline.py"), str(where)]
        roof = json.loads(_said(roofline))
        print(
            f"\n{where}, {platform.machine()}, {os.cpu_count()} cores; medians of {options.runs} "
            "runs after one warm-up, until synced (min to max)"
        )
        print(HEAD, flush=True)
        if chosen := [part for part in options.part if part in PARTS]:
            with Place(where, options.gigabytes[0]) as place:
                if place is not None:
                    for part in chosen:
                        PARTS[part](Bench(*place, options.runs, roof))
        if "growth" in options.part:
            growth(options.gigabytes, where, options.runs)


if __name__ == "__main__":
    main()
