import re

import pytest

from tests.auditing.report.synthetic import DOCUMENTS
from unmergeable.auditing.report import render_markdown
from unmergeable.errors import InputError


@pytest.fixture(params=DOCUMENTS.values(), ids=DOCUMENTS)
def document(request):
    return request.param()


def tables(text):
    return [
        block.splitlines() for block in text.split("\n\n") if block.startswith("|")
    ]  # a Markdown table has no empty line in it


def test_every_section_is_there(document):
    text = render_markdown(document)
    heads = re.findall(r"^#+ .*$", text, re.MULTILINE)
    played = [scenario["title"] for scenario in document.get("scenarios", [])]
    parts = ["Attacks", *played, "Controls", "Red flags", "Not run", "How it was measured"]
    shown = [re.sub(r"\\(.)", r"\1", head) for head in heads]  # names are escaped
    assert shown == ["## Merge audit", *(f"### {part}" for part in parts)]


def test_tables_are_whole(document):
    for table in tables(render_markdown(document)):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(columns) == 1
        assert re.fullmatch(r"\|( ---:? \|)+", table[1])


def test_names_do_not_become_mark_up():
    text = render_markdown(DOCUMENTS["evil"]())
    command = text[text.index("```") :]
    for mark in ("<script", "| `b`", " *c*"):
        assert mark not in text.removesuffix(command).replace("\\" + mark[0], "")
    assert command.startswith("```\n<script>") and command.endswith("\n```\n")


def test_a_fence_is_longer_than_what_it_holds():
    document = DOCUMENTS["full"]()
    document["provenance"]["command"] = "unmergeable audit '```'"
    assert "\n````\nunmergeable audit '```'\n````\n" in render_markdown(document)


def test_figures_are_the_documents():
    document = DOCUMENTS["full"]()
    text = render_markdown(document)
    assert f"**{document['verdict']['sentence']}**" in text
    for line in (
        "| V, open model | 0.97 (0.93 to 1.01) | Linear, no attack |",
        "| V, protected, as released | 0.02 (0.00 to 0.06) | Linear, no attack |",
        "| V, after the best attack | 0.71 (0.67 to 0.75) | Align, then tune, then Linear |",
        "| price of that attack | 25 min, 500 labelled, 3.0 × 10¹⁵ FLOPs |  |",
    ):
        assert line in text
    for cell in document["cells"]:
        if cell["method"] == "linear":
            assert f"| {cell['value']['value']:.2f} ({cell['value']['low']:.2f} to " in text


def test_an_answer_that_is_no_theft_says_why_and_what_would_decide_it():
    text = render_markdown(DOCUMENTS["minimal"]())
    assert "Why:\n\n- pull-back did not run\n- the control" in text
    assert "What would decide it:\n\n- give texts: in-domain\n" in text
    assert "Why:" not in render_markdown(DOCUMENTS["full"]())


def test_what_speaks_against_it_is_told():
    text = render_markdown(DOCUMENTS["broken"]())
    assert "1 control failed: what follows may be a fault of the tools" in text
    assert "- **failed**: The unlocked model merges well again" in text
    assert "The ceilings, distilling or fine-tuning the release, were not measured." in text
    assert text.index("**red:") < text.index("**amber:")


def test_a_wrong_document_is_refused():
    with pytest.raises(InputError, match="schema"):
        render_markdown({})


def test_a_scenario_is_a_sentence_a_table_and_its_controls():
    text = render_markdown(DOCUMENTS["played"]())
    part = text[text.index("### An invented scenario") : text.index("### Controls")]
    assert part.split("\n\n")[1:4] == [
        "What was planted, merged and asked, in a sentence.",
        "| model | told, by exact match |\n| --- | ---: |\n"
        "| the victim alone | 4.0% (0.5% to 6.5%) |\n"
        "| open victim, SLERP | 62.0% (58.5% to 64.5%) |",
        "- passed: The victim knows (100.0% of 400)\n"
        "- **failed**: The victim refuses (4.0% of 400)",
    ]
