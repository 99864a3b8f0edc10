"""How a service is reached: its key, which nothing shows or writes, and its address."""

import os
import sys

from common.errors import InputError
from common.network import checked_address
from common.secrets import keep_secret

KEY_VARIABLE, ADDRESS_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL"


def key_of(given: str | None) -> str:
    """The key of the command line, with a warning, or of the environment.

    Raises:
        InputError: where there is none.
    """
    key = (given or os.environ.get(KEY_VARIABLE) or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            f"the key in {'--key' if given else KEY_VARIABLE} holds characters that no key has; copy it again"
        )
    if given:
        print(
            f"warning: a key on the command line can be seen by other users and stays in the shell's history; use {KEY_VARIABLE}",
            file=sys.stderr,
        )
    if key:
        keep_secret(key)
        return key
    raise InputError(f"no key: set {KEY_VARIABLE} (for a local server without keys, to any word)")


def address_of(given: str | None) -> tuple[str | None, str]:
    """(the address to connect to, or None for the client's own; the address as messages show it).

    Args:
        given: of the command line; None: the environment's.

    Raises:
        InputError: for what is no address.
    """
    address = given or os.environ.get(ADDRESS_VARIABLE) or ""
    shown = checked_address(address, "--base-url" if given else ADDRESS_VARIABLE) if address else ""
    return address or None, shown
