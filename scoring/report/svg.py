"""Matplotlib figures as SVG that stands inside a page: text stays text, ids are unique, nothing points elsewhere."""

import hashlib
import io
import re
from collections.abc import Callable

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "miracle",  # the same picture gives the same bytes
    "text.parse_math": False,  # a system may be called "$x$"
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "savefig.facecolor": "white",
}
PIXELS = 96  # CSS pixels per inch


def picture(width: float, height: float, label: str, draw: Callable[[Axes], None]) -> Markup:
    """A figure of one pair of axes as inline SVG.

    Args:
        width, height: inches.
        label: what a screen reader says.
        draw: draws into the axes; runs under `STYLE`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return inline(text.getvalue(), label, width)


def inline(svg: str, label: str, width: float) -> Markup:
    """A stand-alone SVG file as an element of a page.

    The file's metadata name web addresses, and its style sheet would hold for the whole page: both are left out.

    Args:
        label: for ``aria-label``.
        width: inches; the element may shrink below it.
    """
    body = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<defs>\s*</defs>",
        "",
        svg[svg.index("<svg") :],
        flags=re.DOTALL,
    )
    prefix = "p" + hashlib.sha256((label + body).encode("utf-8", "replace")).hexdigest()[:8]
    view = re.search(r'viewBox="[^"]*"', body).group(0)
    start = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view} '
    start += f'role="img" aria-label="{escape(label)}" style="width:{width * PIXELS:.0f}px">'
    inner = _unique_ids(body[body.index(">") + 1 :], prefix)
    return Markup(start + re.sub(r"\n\s*", "\n", inner))


def _unique_ids(svg: str, prefix: str) -> str:
    """Ids that something refers to get a prefix, the others go; several pictures share a page."""
    used = {
        name for tag in re.findall(r"<[^>]+>", svg) for name in re.findall(r'(?:url\(#|href="#)([^)"]+)', tag)
    }

    def tag(match: re.Match) -> str:
        text = re.sub(
            r' id="([^"]*)"',
            lambda m: f' id="{prefix}-{m.group(1)}"' if m.group(1) in used else "",
            match.group(0),
        )
        return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)

    return re.sub(r"<[^>]+>", tag, svg)
