"""The service: an OpenAI-compatible server whose model names carry dials, and what talks to it."""
