"""The page's colours and fonts: Gradio's, with its pale greys and blues darkened until text has the contrast of WCAG AA, 4.5."""

import gradio as gr


def theme() -> gr.themes.Base:
    """The theme of the page, light and dark."""
    base = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="stone",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    return base.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",  # without it the light one counts
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
