"""Every test runs offline, on one thread, with tiny seeded models."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

from unmergeable.protection import protect as protection
from unmergeable.protection import relock as relocking

settings.register_profile("fast", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("fast")

SALT = protection.salt_of

# What `--fast` runs (`make check`): at least one file of every layer, none that takes long. Of what
# is tried on every architecture, seven stand for all: by data file and by row of the families.
FAST = (
    "architectures/test_declaration.py",
    "architectures/test_equality.py",
    "architectures/test_guide.py",
    "architectures/test_mutations.py",
    "architectures/test_tightness.py",
    "attacks/test_align.py",
    "attacks/test_data_free.py",
    "attacks/test_ladder.py",
    "auditing/test_curves.py",
    "auditing/test_facts.py",
    "evaluation/test_value.py",
    "auditing/test_verdict.py",
    "checkpoint/test_folder.py",
    "cli/test_cli.py",
    "defences/test_docstrings.py",
    "bench/field/test_columns.py",
    "bench/test_registry_tables.py",
    "gauge/test_axis_map.py",
    "gauge/test_groups.py",
    "gauge/test_notation.py",
    "gauge/test_tensor_map.py",
    "merging/test_methods.py",
    "models/test_model_runner.py",
    "evaluation/test_scoring.py",
    "defences/test_chains.py",
    "test_examples.py",
    "protection/test_inspect.py",
    "test_layers.py",
    "test_registry.py",
    "test_settings.py",
    "protection/test_protect.py",
    "training/test_data.py",
)
REFERENCE = (
    "llama",
    "qwen3",
    "qwen3-next",
    "qwen3_next",
    "bert",
    "bert-masked",
    "gpt2",
    "vit",
    "vit-classifier",
    "mixtral",
)
HERE = Path(__file__).parent
DATA_FILES = HERE.parent / "unmergeable" / "architectures"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--fast`."""
    parser.addoption("--fast", action="store_true", help="a part of the tests, on seven families")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves other files unread under `--fast`: importing all of them takes half a minute."""
    if not config.getoption("--fast") or not collection_path.name.startswith("test_"):
        return None
    return collection_path.relative_to(HERE).as_posix() not in FAST or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the architectures that are none of the seven under `--fast`."""
    if not config.getoption("--fast"):
        return
    from tests.architectures.families import FAMILIES

    data_files = {path.stem for path in DATA_FILES.glob("*.toml")}
    others = ({family.name for family in FAMILIES} | data_files) - set(REFERENCE)
    left_out = [item for item in items if _families(item) & others]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not _families(item) & others]


def _families(item: pytest.Item) -> set[str]:
    """What a test's parameters are called; architectures are among them by object or by name."""
    params = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {str(getattr(value, "name", value)) for value in params}


@pytest.fixture(autouse=True, scope="session")
def _scratch():
    """Nothing is left in /tmp: temporary folders, children's too, go with the session."""
    with (
        TemporaryDirectory(prefix="unmergeable-tests-") as folder,
        pytest.MonkeyPatch.context() as p,
    ):
        p.setenv("TMPDIR", folder)
        p.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True, scope="session")
def _salts_that_stay():
    """A lock's salt follows from its folder's name: every run of the tests draws the same locks."""

    def salt(folder, key, line, about):
        name = f"{folder.path.name} {about}".encode()
        return SALT(folder, key, line, about) if line else sha256(name).hexdigest()[:32]

    with pytest.MonkeyPatch.context() as patch:
        for module in (protection, relocking):
            patch.setattr(module, "salt_of", salt)
        yield
