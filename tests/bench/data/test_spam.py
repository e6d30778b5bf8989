import pytest

from unmergeable.bench.data import spam as module


def mail(subject):
    return b"From: a@example.org\nSubject: " + subject + b"\nDate: today\n\nSubject: not this\n"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Plain words", "Plain words"),
        (b"=?iso-8859-1?Q?Sitting_Bull_=FCber_alles?=", "Sitting Bull über alles"),
        (b"=?utf-8?B?w6k=?=\n =?utf-8?B?w6g=?=", "éè"),
        (b"=?no-such-charset?Q?abc?=", "=?no-such-charset?Q?abc?="),
        (b"Gold Lake looks\n\tpretty good", "Gold Lake looks\n\tpretty good"),
    ],
)
def test_subjects_are_decoded(raw, text):
    assert module.subject(mail(raw)) == text


def test_a_mail_may_lack_a_subject_or_hold_other_bytes():
    assert module.subject(b"From: a\n\nSubject: body\n") == ""
    assert "\ufffd" in module.subject(mail(b"caf\xe9"))


@pytest.mark.parametrize(
    "subject",
    [
        *("Old kernels", "Re: Old kernels", "[ILUG] Old kernels", "Re: [ILUG] Re: Old kernels"),
        *("FWD: Old kernels", "Re[2]: Old kernels", "Re: Old kernels (was Re: New kernels)"),
    ],
)
def test_marks_are_taken_off(subject):
    assert module.clean(subject).strip() == "Old kernels"


def test_a_thread_stays_together_and_both_folders_count(tmp_path, monkeypatch):
    for name in module.FOLDERS:
        folder = tmp_path / module.FOLDER / name
        folder.mkdir(parents=True)
        for i in range(8):
            word = "abcdefgh"[i] * 3
            for part, start in enumerate((b"", b"Re: ", b"[List] ")):
                subject = start + f"{name[:3]}{'xyzuv'[ord(name[-1]) % 5]} {word} {i}".encode()
                (folder / f"{i}-{part}.txt").write_bytes(mail(subject))
        (folder / "notes.json").write_text("{}")
    monkeypatch.setattr(module, "npm", lambda *_, **__: tmp_path)
    rows = list(module._read(tmp_path / module.FOLDER))
    assert len(rows) == 5 * 8 * 3
    task = module.spam(train=6, validation=2, test=4)
    texts = [item.text for item in task.train + task.validation + task.test]
    assert len(set(texts)) == len(texts) == 24
    for item in task.train + task.validation + task.test:
        assert item.text.startswith("spa" if item.label else ("eas", "har"))
