r"""Formulas of a page as MathML, which browsers draw by themselves: no script and no network.

In Markdown a formula stands between `$ $` or `$$ $$`, as Jupyter has it. What the converter does not know (it has no
`\arg`, `\tag` or `aligned`; `\operatorname{arg\,max}`, `\text{}` and `align` it has) is an error of the page.
"""

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from geocbm.errors import ParameterError

MATHML_TAGS = """
    math mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr
    munder munderover menclose
"""
MATHML_ATTRIBUTES = {
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"stretchy", "fence", "form", "minsize", "maxsize", "movablelimits", "separator", "lspace", "rspace"},
    "mover": {"accent"},
    "mfrac": {"linethickness"},
    "mspace": {"width"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtable": {"columnalign", "rowspacing", "displaystyle"},
    "mtd": {"columnalign"},
}


def formula_html(latex: str, display: bool) -> str:
    """A LaTeX formula as MathML, for a line of its own or within one.

    Raises:
        ParameterError: it holds a command that the converter does not know; names it.
    """
    from latex2mathml.converter import convert

    try:
        markup = convert(latex.strip(), display="block" if display else "inline")
    except Exception as problem:  # the converter has an error class for each way in which LaTeX may be wrong
        raise ParameterError(f"the formula {latex.strip()!r} cannot be read ({type(problem).__name__})") from None
    if "\\" in markup:
        command = markup[markup.index("\\") :].split("<")[0]
        raise ParameterError(
            f"the formula {latex.strip()!r} uses {command!r}, which pages cannot draw; write it otherwise"
        )
    return markup


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return formula_html(body, display=False)

    def block_math(self, body: str) -> str:
        return f'<div class="formula">{formula_html(body, display=True)}</div>'


def markdown_html(text: str) -> str:
    """Markdown with formulas as HTML; not yet cleaned."""
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(text)
