"""What the page shows, as HTML. Every text from outside goes through `safe`."""

import html
import math

from common.schema import Schema
from miracle import Reply
from playground.settings import factor

# gradio reads a value of gr.HTML as a template: these characters must not reach it as they are
TEMPLATE = str.maketrans({character: f"&#{ord(character)};" for character in "${}`\\"})


def safe(text: object) -> str:
    """Text for HTML, in elements and in quoted attributes."""
    return html.escape(str(text), quote=True).translate(TEMPLATE)


def said(text: str, kind: str, tag: str = "p") -> str:
    """One utterance, in its own direction of writing."""
    return f'<{tag} class="{kind}" dir="auto">{safe(text)}</{tag}>'


def bar(name: str, chance: float, wanted: bool) -> str:
    """A probability as a bar with its number; the aspect asked for stands out."""
    return (
        f'<div class="bar{" wanted" if wanted else ""}"><span class="name">{safe(name)}</span>'
        f'<span class="track"><span class="fill" style="width:{100 * chance:.1f}%"></span></span>'
        f'<span class="number">{chance:.3f}</span></div>'
    )


def doubt(warnings: list[str]) -> str:
    """A mark beside a number that is not to be trusted, with the reasons; nothing without reasons."""
    return f' <abbr class="doubt" title="{safe("; ".join(warnings))}">⚠ in doubt</abbr>' if warnings else ""


def bars(reply: Reply, doubts: list[str] = ()) -> str:
    """The evaluators' probabilities of every attribute, and coherence, with warnings; says so where the run has no evaluators."""
    if reply.probabilities is None:
        return '<p class="note">This run has no evaluators, so there are no probabilities.</p>'
    groups = [
        f'<div class="group" role="group" aria-label="{safe(name)}"><p class="of">{safe(name)}</p>{"".join(bar(a, p, reply.target.get(name) == a) for a, p in chances.items())}</div>'
        for name, chances in reply.probabilities.items()
    ]
    return f'<div class="bars">{"".join(groups)}<div class="group" role="group" aria-label="coherence"><p class="of">coherence{doubt(doubts)}</p>{bar("fits context", reply.coherence, False)}</div></div>'


def facts(reply: Reply) -> str:
    """Energy and time in a line."""
    energy = f"energy {reply.energy_start:.3g} → {reply.energy:.3g}" if reply.target else "no control"
    return f'<p class="facts">{energy} · {reply.seconds:.2f} s{"" if reply.finished else " · stopped"}</p>'


def answer(reply: Reply, doubts: list[str] = ()) -> str:
    """A reply with its numbers, and warnings of its coherence."""
    text = said(reply.text, "reply") if reply.text else '<p class="reply note">(an empty reply)</p>'
    cut = said(f"({reply.cut})", "note") if reply.cut is not None else ""
    return f"{text}{cut}{bars(reply, doubts)}{facts(reply)}"


def turn(entry: dict, doubts: list[str]) -> str:
    """One question and what came of it."""
    note = said(entry["note"], "note") if entry["note"] else ""
    asked = f'<div class="asked">{said(entry["question"], "question")}{note}</div>'
    if entry["result"] is not None:
        return f'{asked}<div class="answered">{answer(entry["result"], doubts)}</div>'
    text = entry["text"] or ("waiting…" if entry["waiting"] else "stopped before it began")
    return (
        f'{asked}<div class="answered">{said(text, "reply under-way" if entry["waiting"] else "note")}</div>'
    )


def chat(turns: list[dict], doubts: list[str] = ()) -> str:
    """The whole conversation."""
    inside = (
        "".join(turn(entry, doubts) for entry in turns)
        or '<p class="note">Choose aspects, ask something, and see what the evaluators predict.</p>'
    )
    return f'<div class="chat" role="log" aria-live="polite">{inside}</div>'


def joint(reply: Reply) -> float | None:
    """Product of the probabilities of the aspects asked for."""
    return (
        None
        if reply.probabilities is None
        else math.prod(reply.probabilities[name][aspect] for name, aspect in reply.target.items())
    )


def grid(schema: Schema, replies: list[Reply], note: str) -> str:
    """All combinations of one question."""
    heads = "".join(f"<th>{safe(name)}</th>" for name in schema.names)
    rows = []
    for reply in replies:
        chance = joint(reply)
        aspects = "".join(f'<td class="aspect">{safe(reply.target[name])}</td>' for name in schema.names)
        number = (
            '<td class="note">–</td>' if chance is None else f'<td class="joint">{bar("", chance, True)}</td>'
        )
        rows.append(f"<tr>{aspects}{said(reply.text, 'reply', 'td')}{number}</tr>")
    seconds = f"{len(replies)} replies · {replies[0].seconds:.2f} s · joint: product of the probabilities of the row’s aspects"
    table = f'<table class="grid"><thead><tr>{heads}<th>reply</th><th>joint</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return (
        f'{said(note, "note") if note else ""}<div class="wide">{table}</div><p class="facts">{seconds}</p>'
    )


def side_by_side(names: list[str], replies: list[Reply], doubts: list[list[str]], note: str) -> str:
    """The replies of several runs to one question, with warnings of each run's coherence."""
    columns = [
        f'<section class="run"><h3>{safe(name)}</h3>{answer(reply, own)}</section>'
        for name, reply, own in zip(names, replies, doubts)
    ]
    return f'{said(note, "note") if note else ""}<div class="runs">{"".join(columns)}</div>'


def problem(message: object) -> str:
    """What went wrong, in a line."""
    return said(str(message), "problem")


def strength(value: float) -> str:
    """The strength's factor in words."""
    return f"× {factor(value):g}"


def settings_link(query: str) -> str:
    """The link to the present settings."""
    return f'<a class="settings-link" href="{safe(query)}">link to these settings</a> <span class="note">(copy its address, or open it)</span>'
