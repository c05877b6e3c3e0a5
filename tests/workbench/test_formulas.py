"""Formulas of pages: MathML that survives the cleaning of a page, and errors that name what cannot be drawn."""

from __future__ import annotations

import pytest

from geocbm.errors import ParameterError
from geocbm.files import paths
from geocbm.workbench.html import clean_html
from geocbm.workbench.report import formula_html, markdown_html
from geocbm.workbench.sync import read_script

INFO_NCE = (
    r"\mathcal{L} = -\frac{1}{B} \sum_{i=1}^{B} \log "
    r"\frac{\exp(z_i^\top g_i / \tau)}{\sum_{j=1}^{B} \exp(z_i^\top g_j / \tau)}"
)


@pytest.mark.parametrize(
    "latex",
    [
        INFO_NCE,
        r"\operatorname{softmax}(q W X^\top)\, X W",
        r"\lVert x \rVert_2 \in \mathbb{R}^{B \times D}",
        r"\begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}",
        r"\sqrt{\hat{p}_c (1 - \hat{p}_c)} \le \left( \tfrac{1}{2} \right)^{\gamma}",
    ],
)
def test_a_formula_keeps_all_its_parts_when_the_page_is_cleaned(latex: str) -> None:
    markup = formula_html(latex, display=True)
    cleaned = clean_html(markup)
    for tag in ("math", "mfrac", "msub", "msup", "mtable", "msqrt"):
        assert cleaned.count(f"<{tag}") == markup.count(f"<{tag}")
    assert 'display="block"' in cleaned and "$" not in cleaned and "\\" not in cleaned


def test_markdown_holds_formulas_in_a_line_and_on_their_own() -> None:
    page = clean_html(
        markdown_html(f"With $\\tau = 0.07$:\n\n$${INFO_NCE}$$\n\nThat is `a $b$`, for 5 $ or 6 dollars.")
    )
    assert page.count("<math") == 2 and page.count('class="formula"') == 1
    assert "a $b$" in page


def test_text_in_a_formula_runs_nothing() -> None:
    assert "<script" not in clean_html(markdown_html(r"$\text{<script>alert(1)</script>} < 3$"))


@pytest.mark.parametrize("latex", [r"\nosuchcommand{x}", r"a & \left( b"])
def test_what_cannot_be_drawn_is_an_error(latex: str) -> None:
    with pytest.raises(ParameterError):
        formula_html(latex, display=False)


def test_the_formulas_of_all_notebooks_can_be_drawn() -> None:
    for script in sorted(paths.notebooks_folder().glob("*.py")):
        for cell in read_script(script.read_text(encoding="utf-8")).cells:
            if cell.cell_type == "markdown":
                assert "$" not in markdown_html(cell.source).partition("<code>")[0], script.name
