"""A conversation in the terminal with a trained run, or with release/chat. ``python chat.py outs/demo``

Type a message to get a reply. /lyrical asks for an aspect, /lyrical optimistic 0.5 for two, the second at half the
run's strength, /help lists the rest. Ctrl-C stops a reply under way, or ends the conversation at the prompt, as Ctrl-D does.
"""

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import argparse  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import textwrap  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from common.errors import InputError  # noqa: E402
from common.jsonl import write_json  # noqa: E402
from common.provenance import relative  # noqa: E402
from common.schema import target_name  # noqa: E402
from generation.control_weights import STRONGEST  # noqa: E402
from generation.sharing import named_run  # noqa: E402
from miracle import Miracle, Reply  # noqa: E402

if TYPE_CHECKING:
    from server.client import RemoteMiracle

BLOCK = 4  # tokens: see docs/method.md, what a conversation repeats
HELP = """\
/ASPECT [FACTOR]   ask for an aspect; FACTOR times the run's strength, 1 where it is left out;
                   several on a line: /ASPECT, /ASPECT FACTOR
/no ASPECT         no longer ask for it (or for any aspect of an attribute)
/target            what is asked for
/all               the last message under all combinations of aspects
/again             another reply to the last message
/seed NUMBER       the seed of the next reply
/clear             forget the conversation
/save FILE         write the conversation and its replies as JSON
/help, /quit"""


class Chat:
    """The state of a conversation.

    Args:
        model: what replies.
        write: takes each line of output.
        draft: takes the text of a reply under way after every token (with several candidates the first's), and "" where
            it has ended; None: nothing is shown of it.
        block: replies do not say n-grams of this size again that the conversation has; 0: they may.
    """

    def __init__(
        self,
        model: "Miracle | RemoteMiracle",
        write: Callable[[str], None] = print,
        draft: Callable[[str], None] | None = None,
        block: int = 0,
    ):
        self.model, self.write, self.draft, self.block = model, write, draft, block
        self.target: dict[str, str] = {}
        self.factors: dict[str, float] = {}
        self.turns: list[str] = []  # user, reply, user, reply, ...
        self.replies: list[Reply] = []
        self.seed = model.control.seed

    def handle(self, line: str) -> bool:
        """Take in a line; returns False where the conversation ends."""
        line = line.strip()
        if not line:
            return True
        if line in ("/quit", "/exit"):
            return False
        try:
            if line.startswith("/"):
                self.command(line)
            else:
                self.answer([*self.turns, line])
        except InputError as error:
            self.write(f"! {error}")
        except KeyboardInterrupt:
            self.write("! stopped" + ("" if line.startswith("/") else "; the message is not kept"))
        return True

    def command(self, line: str) -> None:
        """Do what a line that begins with a slash says; raises `InputError` for one that cannot be done."""
        name, argument = [*line[1:].split(maxsplit=1), "", ""][:2]
        name = name or "help"
        aspects = self.aspects
        actions = {"no": self.drop, "seed": self.set_seed, "save": self.save}
        plain = {
            "all": self.show_all,
            "again": self.again,
            "clear": self.clear,
            "target": self.show_target,
            "help": lambda: self.write(HELP),
        }
        words = [word for word in re.split(r"[\s,*]+", line) if word]
        if words[0].removeprefix("/") in aspects:
            self.ask_for(words)
        elif name in actions:
            actions[name](argument)
        elif name in plain:
            plain[name]()
        else:
            raise InputError(
                f"unknown command /{name}; aspects are {', '.join(aspects)}, and /help lists the commands"
            )

    @property
    def aspects(self) -> list[str]:
        """Of all attributes."""
        return [aspect for values in self.model.attributes.values() for aspect in values]

    def ask_for(self, words: list[str]) -> None:
        """Ask for aspects from now on.

        Args:
            words: the first an aspect, then more of them or a factor behind one, with or without slashes.

        Raises:
            InputError: for another word, a factor that is no strength, and two aspects of an attribute; nothing changes then.
        """
        factors: dict[str, float] = {}  # by aspect
        awaits = ""  # the aspect that a factor may follow
        for word in words:
            if awaits and not word.startswith("/") and word not in self.aspects:
                factors[awaits], awaits = self.strength(word, awaits), ""
            elif (aspect := word.removeprefix("/")) in self.aspects:
                factors[aspect], awaits = 1.0, aspect
            else:
                raise InputError(f"unknown aspect {word!r:.80}; aspects are {', '.join(self.aspects)}")
        asked = self.model.schema.target(list(factors))
        self.target = self.model.target(self.target | asked)
        self.factors |= {name: factors[aspect] for name, aspect in asked.items()}
        self.show_target()

    def strength(self, text: str, aspect: str) -> float:
        """The factor behind an aspect; raises `InputError` for what is none."""
        expected = f"a strength is a number of 0 or more, /{aspect} 0.5"
        try:
            value = float(text)
        except ValueError:
            raise InputError(
                f"{text!r:.80} is no aspect and no strength; {expected}; aspects are {', '.join(self.aspects)}"
            ) from None
        own = self.model.weights[self.model.schema.attribute_of(aspect).name]
        if not 0 <= value * own <= STRONGEST:
            most = f", of at most {STRONGEST / own:g}" if own and value > 0 else ""
            raise InputError(f"{expected}{most}; found {text!r:.80}")
        return value

    def drop(self, word: str) -> None:
        """Ask for an aspect, or for anything of an attribute, no longer."""
        gone = [name for name, aspect in self.target.items() if word in (name, aspect)]
        if not gone:
            raise InputError(f"{word!r} is not asked for; {target_name(self.target)} is")
        for name in gone:
            del self.target[name], self.factors[name]
        self.show_target()

    def show_target(self) -> None:
        """Say what is asked for, and how strongly."""
        weights = self.weights()
        self.write(
            "asked for: "
            + (
                ", ".join(f"{aspect} (weight {weights[name]:g})" for name, aspect in self.target.items())
                or "nothing in particular"
            )
        )

    def weights(self) -> dict[str, float]:
        """The run's weights times the factors."""
        return {name: own * self.factors.get(name, 1.0) for name, own in self.model.weights.items()}

    def set_seed(self, text: str) -> None:
        """The seed of the next reply."""
        if not (
            text.isascii() and text.isdigit() and len(text) <= 18
        ):  # "²" is a digit to Python, and no number
            raise InputError(f"a seed is a whole number of up to 18 digits, found {text!r:.40}")
        self.seed = int(text)
        self.write(f"seed {self.seed}")

    def answer(self, turns: list[str], **options) -> None:
        """Reply to the conversation so far and keep both."""
        reply = self.reply(turns, self.target, **options)
        self.turns = [*turns, reply.text]
        self.replies.append(reply)
        if reply.cut is not None:
            self.write(f"  ({reply.cut})")
        self.write(wrapped(f"{reply.text or '(an empty reply; later ones do not read its message)'}", "  "))
        self.write("  " + predicted(reply))

    def reply(self, turns: list[str], target: dict[str, str], **options) -> Reply:
        """The reply to the conversation so far, whose text is shown while it is written."""
        if self.draft is not None:
            options["on_text"] = self.watch
        if self.block:
            options["context_block_ngram"] = self.block
        try:
            return self.model.reply(answered(turns), target, self.weights(), seed=self.seed, **options)[0]
        finally:
            self.watch("")

    def watch(self, text: str) -> bool:
        """Show a text under way; True: it goes on."""
        if self.draft is not None:
            self.draft(text)
        return True

    def again(self) -> None:
        """Another reply to the last message, from another sample of the prior."""
        turns = self.last_message()
        self.seed += 1
        self.answer(turns, start="sample")

    def show_all(self) -> None:
        """The last message under all combinations, each as it is written, with what the classifiers predict."""
        turns = self.last_message()
        for number, target in enumerate(self.model.schema.combinations()):
            reply = self.reply(turns, target)
            if number == 0 and reply.cut is not None:
                self.write(f"({reply.cut})")
            wrong = [
                name
                for name, aspect in reply.target.items()
                if reply.predicted and reply.predicted[name] != aspect
            ]
            note = f"   (predicted: {', '.join(reply.predicted[name] for name in wrong)})" if wrong else ""
            self.write(f"{target_name(reply.target)}{note}")
            self.write(wrapped(reply.text or "(an empty reply)", "  "))

    def last_message(self) -> list[str]:
        """The conversation up to the last message; raises `InputError` where there is none."""
        if not self.turns:
            raise InputError("there is no message yet")
        return self.turns[:-1]

    def clear(self) -> None:
        """Forget the conversation, not what is asked for."""
        self.turns, self.replies = [], []
        self.write("the conversation is empty")

    def save(self, name: str) -> None:
        """Write the conversation with its replies' targets, weights, seeds and probabilities."""
        if not name:
            raise InputError("/save needs a file's name")
        keys = (
            "text",
            "target",
            "weights",
            "seed",
            "predicted",
            "probabilities",
            "coherence",
            "energy_start",
            "energy",
        )
        try:
            write_json(
                Path(name).expanduser(),
                {
                    "turns": self.turns,
                    "replies": [{key: getattr(reply, key) for key in keys} for reply in self.replies],
                },
            )
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # no such folder, a NUL in the name, no such user's home
            raise InputError(
                f"{name!r} cannot be written: {getattr(error, 'strerror', None) or error}"
            ) from None
        self.write(f"saved: {name}")


def draft_line(text: str) -> None:
    """The end of a text under way, in a line of the terminal that the next one replaces."""
    room = (shutil.get_terminal_size().columns - 4) // (
        1 if text.isascii() else 2
    )  # some letters take two columns
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    shown = shown if len(shown) <= room else "…" + shown[1 - room :]
    print(f"\r\x1b[K{'  ' + shown if shown else ''}", end="", flush=True)


def predicted(reply: Reply) -> str:
    """What the evaluators say to a reply, in one line: ``[lyrical 0.98, optimistic 0.04 (predicted pessimistic); fits 0.20; 0.3 s]``."""
    parts = []
    for name, aspect in reply.target.items():
        if reply.probabilities:
            other = "" if reply.predicted[name] == aspect else f" (predicted {reply.predicted[name]})"
            parts.append(f"{aspect} {reply.probabilities[name][aspect]:.2f}{other}")
    fits = "" if reply.coherence is None else f"fits {reply.coherence:.2f}; "
    return f"[{', '.join(parts)}{'; ' if parts else ''}{fits}{reply.seconds:.1f} s]"


def wrapped(text: str, indent: str) -> str:
    """A text in lines that fit the terminal."""
    width = max(40, min(100, shutil.get_terminal_size().columns - 2))
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)


def answered(turns: list[str]) -> list[str]:
    """The turns without those before the last that have an empty reply, and without that reply."""
    pairs = zip(turns[:-1:2], turns[1::2])
    return [text for pair in pairs if pair[1].strip() for text in pair] + turns[-1:]


def typed() -> Iterator[str]:
    """The user's lines; those of a file or a pipe are shown, as a terminal shows what is typed.

    A line that is not UTF-8 is left out, and that is said.
    """
    terminal = sys.stdin.isatty()
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)
    while True:
        try:
            line = input("> " if terminal else "")
        except (EOFError, KeyboardInterrupt):
            if terminal:
                print()
            return
        line = line.removeprefix("\ufeff").replace("\0", "")
        if any("\ud800" <= letter <= "\udfff" for letter in line):
            print("! this line is not UTF-8 text and was left out")
            continue
        if not terminal:
            print(line)
        yield line


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "run",
        nargs="?",
        type=Path,
        help="a run's folder, or its cvae/ alone (default: the run trained last, else release/chat)",
    )
    options.add_argument("--run", dest="name", metavar="RUN", help="the same by its name under outs/")
    options.add_argument(
        "--server",
        metavar="URL",
        help="talk to a server of serve.sh instead of loading a run (its key: MIRACLE_API_KEY)",
    )
    options.add_argument(
        "--context-block-ngram",
        type=int,
        default=BLOCK,
        help="replies do not say n-grams of this size again that the conversation has; 0: they may (default: %(default)s)",
    )
    options.add_argument("--target", help="aspects to begin with: lyrical,optimistic")
    options.add_argument("--device", help="cpu, cuda or mps; default: CUDA, MPS or CPU, in that order")
    return options


def loaded(options: argparse.Namespace) -> "tuple[Miracle | RemoteMiracle, str]":
    """What replies, and what it is called; raises `InputError`."""
    if options.server:
        if options.run or options.name or options.device:
            raise InputError("--server talks to what is loaded there; leave the run and --device out")
        from server.client import RemoteMiracle  # the OpenAI client takes half a second to import

        return RemoteMiracle(options.server), options.server
    run = named_run(options.run, options.name, "chat.sh")
    return Miracle.from_run(run, options.device), relative(run)


def main(argv: list[str] | None = None) -> int:
    """Talk until the user ends it; returns the exit status."""
    options = parser().parse_args(argv)
    model, name = loaded(options)
    draft = draft_line if sys.stdout.isatty() else None
    chat = Chat(model, draft=draft, block=options.context_block_ngram)
    chat.target = model.target(options.target)
    try:
        import readline  # noqa: F401  line editing and history at the prompt, where the platform has it
    except ImportError:
        pass
    print(
        f"{name}: " + "; ".join(f"{name}: {', '.join(aspects)}" for name, aspects in model.attributes.items())
    )
    print("type a message; /help lists the commands, Ctrl-D ends")
    if not chat.target:
        print(f"try: /{model.schema.attributes[0].aspects[-1]}, then ask something")
    if doubts := model.scorer.coherence_warnings() if model.scorer else []:
        print(f"what 'fits' says is in doubt: {'; '.join(doubts)}")
    for line in typed():
        if not chat.handle(line):
            break
    return 0


if __name__ == "__main__":
    run_main(main)
