"""Writing a schema file for data that a tool has made."""

import pprint
from pathlib import Path


def write_schema(path: Path, attributes: list[dict], others: dict[str, str | None], description: str) -> None:
    """Write a schema file.

    Args:
        attributes: entries as in ``ATTRIBUTES``, file names relative to the schema's folder.
        others: ``TEST``, ``NLI``, ``DEV_NLI`` -> file name or None.
        description: the file's docstring.
    """
    body = pprint.pformat(attributes, width=110, sort_dicts=False)
    lines = [
        f'"""{description}"""',
        "",
        f"ATTRIBUTES = {body}",
        "",
        *(f"{key} = {name!r}" for key, name in others.items()),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
