"""The browser playground: pages made of `miracle.Miracle` and gradio."""
