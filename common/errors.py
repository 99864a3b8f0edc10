"""The one error whose message alone is what the user needs."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what, where, and what was expected."""
