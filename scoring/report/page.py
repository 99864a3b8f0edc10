"""A page from its template, with style sheet and script inside it; the file appears only once it is complete."""

from pathlib import Path

import jinja2
from markupsafe import Markup

from common.files import replacing
from scoring.metrics import arrow, written

FOLDER = Path(__file__).resolve().parent


def render(template: str, **content) -> str:
    """The HTML of a template of this folder; every text is escaped, inside embedded JSON too."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":"),
        "ensure_ascii": False,
        "allow_nan": False,
    }
    environment.globals |= {"arrow": arrow, "written": written, "inlined": inlined}
    return environment.get_template(template).render(**content)


def inlined(name: str) -> Markup:
    """A file of this folder as it stands; ours, so nothing in it needs escaping."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def write_page(path: Path, html: str) -> Path:
    """Write a page, replacing the file only once it is complete; returns the path."""
    with replacing(path, errors="replace") as out:  # half a surrogate pair in a reply becomes "?"
        out.write(html)
    return path
