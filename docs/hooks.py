"""What mkdocs does for this site beside its plugins: the repository's own pages are part of it, and links lead within it."""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "RESULTS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "dataset/README.md",
    "dataset/style_guide.md",
    "dataset/base/README.md",
    "baselines/README.md",
    "release/chat/README.md",
)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Add the pages that lie outside ``docs/``, under ``repository/``."""
    for page in PAGES:
        text = re.sub(r"\A---\n.*?\n---\n", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        files.append(File.generated(config, f"repository/{page}", content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links at pages of this site; a link to a file that is not one of its pages becomes its text."""
    here = PurePosixPath(page.file.src_uri)
    place = (
        PurePosixPath(*here.parts[1:]).parent
        if here.parts[0] == "repository"
        else PurePosixPath("docs") / here.parent
    )
    return LINK.sub(lambda found: _link(found, place, here, files), markdown)


def _link(found, place: PurePosixPath, here: PurePosixPath, files) -> str:
    """One link of the page at `place` in the repository and at `here` in the site."""
    image, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, hash_, anchor = target.partition("#")
    inside = os.path.normpath(place / path).replace(os.sep, "/")
    page = inside.removeprefix("docs/") if inside.startswith("docs/") else f"repository/{inside}"
    if files.get_file_from_path(page) is None:
        return text
    return f"{image}[{text}]({os.path.relpath(page, here.parent)}{hash_}{anchor})"
