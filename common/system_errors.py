"""What the system refuses (a full disk, a folder that may not be written), as one line with what to do."""

import errno
import re
import shutil
import sys

REMEDIES = {
    errno.ENOSPC: "the disk is full; make room, and the same command goes on",
    errno.EDQUOT: "your quota of the disk is used up; make room, and the same command goes on",
    errno.EROFS: "the disk is read-only; name a folder that can be written: --outs, --output or --output-dir",
    errno.EACCES: "it may not be read or written by you; change its rights, or name another folder",
    errno.EPERM: "it may not be changed by you; change its rights, or name another folder",
    errno.ENOTDIR: "a file stands where a folder should be; move it away, or name another folder",
    errno.EEXIST: "a file stands where a folder should be; move it away, or name another folder",
    errno.EISDIR: "a folder stands where a file should be; move it away, or name another file",
    errno.ENOTEMPTY: "the folder holds something else; move it away, or name another folder",
    errno.ENOENT: "there is no such file or folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EMFILE: "too many files are open; raise the limit: ulimit -n 4096",
    errno.EIO: "the disk cannot be read or written; look at the system's log",
}
FULL = re.compile(  # what Rust's libraries and PyTorch's writers say
    r"no space left on device|os error 28|PytorchStreamWriter failed|inline_container\.cc.*unexpected pos|basic_ios::clear: iostream error",
    re.IGNORECASE | re.DOTALL,
)


def system_mistake(error: BaseException) -> str | None:
    """The line for an error of the system's, or for one that a library made of it; None for anything else."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in REMEDIES:
            path = one.filename2 or one.filename
            return f"{path}: {REMEDIES[one.errno]}" if path is not None else REMEDIES[one.errno]
        if isinstance(one, shutil.Error):
            return _not_copied(one)
        if isinstance(one, RuntimeError) and str(one).startswith(
            "Symlink loop"
        ):  # pathlib's, until Python 3.13
            return f"{one}: links that lead to themselves; delete them, or name another file"
        if FULL.search(str(one)):
            return f"a file could not be written: {REMEDIES[errno.ENOSPC]}"
        one = one.__cause__ or one.__context__
    return None


def _not_copied(error: shutil.Error) -> str:
    """The first of the files that a folder's copy lacks: a link to nothing, a pipe, one that may not be read."""
    failed = error.args[0] if error.args else ""
    if not isinstance(failed, list) or not failed:
        return f"a file cannot be copied: {failed}"
    source, _, reason = failed[0]
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{source} cannot be copied{others}: {reason}; mend or delete it"


def print_anything() -> None:
    """On terminals and in files whose encoding lacks a character, its number is printed for it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
