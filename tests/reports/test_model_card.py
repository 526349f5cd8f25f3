"""The model card: names stay text in it, and it lists the commands that work with its model."""

import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from helpers.commands import NETWORK
from helpers.tiny import model_info
from segdistill.checkpoints.model_file import ModelInfo
from segdistill.evaluation.metrics import Scores
from segdistill.reports.markdown import verbatim
from segdistill.reports.model_card import CardRow, model_card

pytestmark = pytest.mark.usefixtures("elsewhere")


def card_of(info: ModelInfo) -> str:
    scores = Scores.of(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), len(info.classes))
    return model_card(info, [CardRow("distilled", "<i>net</i>", scores, 5)], scores)


ODD_LINES = ("", "  a ", "a\nb", "a\r| b |", "a\u2028b", "\x1b[2J", "\u202eback")
MARKUP = r"""=cmd()
<script>alert(1)</script>
a|b
|
[x](javascript:1)
![x](y)
[^1]
`rm`
``
` `
\`
a\
a\|b
&lt;
&#64;you
www.example.org
https://example.org
me@example.org
@someone
#1
GH-1
owner/name#1
:x:
$x$
$`x`$
**a**
_a_
~~a~~
# a
- a
1. a
> a
wörld, 街""".splitlines()
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def texts_of(card: str) -> list[str]:
    """Return the text of each cell of a card's tables and of its paragraphs, where names from outside are but code.

    An independent renderer reads it: of what it takes for markup, code and the pipes between two pieces are allowed.
    """
    found = []
    for token in MARKDOWN.parse(card.partition("\n---\n")[2]):
        kinds = {child.type for child in token.children or ()}
        assert kinds <= {"text", "text_special", "code_inline", "softbreak"}, token.content
        if token.type == "inline":
            found.append("".join(child.content for child in token.children or ()))
    return found


def outside_of_code(line: str) -> str:
    """Return what a renderer's further rules see of a line: mentions, links, emoji and formulas are none in code."""
    _, paragraph, _ = MARKDOWN.parse(f"on {line}")
    return "".join(child.content for child in paragraph.children or () if child.type != "code_inline")[3:]


@pytest.mark.promise("S13")
def test_names_are_escaped_in_the_card() -> None:
    pairs = [f"{first}x{second}{first}" for first in string.punctuation for second in string.punctuation]
    names = (*MARKUP, *ODD_LINES, *string.punctuation, *pairs)
    shown = [name.encode("unicode_escape").decode() if not name.isprintable() else name for name in names]
    card = card_of(model_info(NETWORK, names, data="<b>yard</b> @x"))
    cells = texts_of(card)
    first = cells.index("IoU") + 1
    assert cells[first : first + 2 * len(names) : 2] == shown
    assert "<i>net</i>" in cells
    assert any("on <b>yard</b> @x," in text for text in cells)
    for name in names:
        assert set(outside_of_code(verbatim(name))) <= {"|"}, name


@given(st.text(st.one_of(st.sampled_from(string.punctuation + " \n"), st.characters()), max_size=12))
def test_any_name_stays_in_its_table_cell(name: str) -> None:
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)
    cells = texts_of(f"\n---\n| class | IoU |\n|---|---:|\n| {verbatim(name)} | 1 |\n")
    assert cells == ["class", "IoU", line, "1"]


@pytest.mark.parametrize(
    ("data", "words"), [("streets", ""), ("camvid", " --data camvid:PATH"), ("yard", " --data FILE.toml")]
)
def test_card_lists_the_commands_for_its_model(data: str, words: str) -> None:
    card = card_of(model_info(NETWORK, data=data))
    commands = [line.strip() for line in card.splitlines() if line.startswith("    segdistill ")]
    assert commands == [
        f"segdistill evaluate RUN{words}",
        f"segdistill export RUN{words}",
        "segdistill infer RUN IMAGES --out DIR",
    ]
    card = card_of(model_info(NETWORK, data=data, preset="lad", role="teacher", label_embedding={}))
    commands = [line.strip() for line in card.splitlines() if line.startswith("    segdistill ")]
    assert commands == [f"segdistill distill --preset lad --teacher RUN --student {NETWORK}{words}"]


def test_card_says_which_weights_were_scored() -> None:
    cards = {weights: card_of(model_info(NETWORK, weights=weights)) for weights in ("last", "ema", "best")}
    assert "weights of the last step" in cards["last"]
    assert "averaged weights" in cards["ema"]
    assert "weights of the best validation" in cards["best"]
    assert [weights for weights, card in cards.items() if "optimistic" in card] == ["best"]
