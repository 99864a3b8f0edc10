"""playground/theme.py: text can be read, light and dark."""

import re
from pathlib import Path

import pytest

gr = pytest.importorskip("gradio")

from playground.theme import theme  # noqa: E402

STYLE = Path(__file__).resolve().parents[2] / "playground" / "style.css"


def luminance(colour):
    """Relative luminance as WCAG 2 has it."""
    channels = [int(colour.lstrip("#")[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colour(name):
    """A theme's colour as a number; in the dark a colour that another one names is that one's dark value."""
    value, dark = getattr(theme(), name), name.endswith("_dark")
    while value.startswith("*"):
        name = value[1:]
        value = getattr(theme(), f"{name}_dark", None) if dark else None
        value = value or getattr(theme(), name)
    return {"white": "#ffffff"}.get(value, value)


@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("button_primary_text_color", "button_primary_background_fill"),
        ("button_primary_text_color", "button_primary_background_fill_hover"),
        ("button_primary_text_color_dark", "button_primary_background_fill_dark"),
        ("block_info_text_color", "block_background_fill"),
        ("block_info_text_color_dark", "block_background_fill_dark"),
        ("input_placeholder_color", "input_background_fill"),
        ("input_placeholder_color_dark", "input_background_fill_dark"),
        ("primary_600", "body_background_fill"),  # the chosen tab's name
    ],
)
def test_text_has_the_contrast_of_wcag_aa(text, ground):
    assert contrast(colour(text), colour(ground)) >= 4.5


def test_the_light_page_s_accent_is_the_dark_blue():
    assert re.search(
        r"body:not\(.dark\) .gradio-container { --color-accent: var\(--primary-600\)", STYLE.read_text()
    )
