"""The page: what is on it, and what happens on a click."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from common.errors import InputError
from common.jsonl import parse_line, read_lines
from miracle import Miracle, Reply
from playground import views
from playground.latent_map import latent_map
from playground.session import Log, Tickets, context_of, written
from playground.settings import NONE, STRENGTHS, Settings, cut, from_link, to_link
from playground.theme import theme

EXAMPLES = 5
QUESTIONS = (
    "My bread did not rise this morning. What shall I do?",
    "Should I move to another town for work?",
    "How was the concert in the park last night?",
)
WAITING = 256  # visitors in the queue before one is turned away
SHOWN = 80  # characters of an example in an empty box
LINE = "model"  # everything that needs the model is queued there, so that a visitor's place is true
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
STRENGTH_LABEL = "value => `× ${Number((10 ** value).toPrecision(1))}`"


class ContentSecurityPolicy:
    """ASGI middleware: the page may load nothing from other hosts, and nobody may frame it."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Pass everything on, with one header more."""

        async def with_header(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"same-origin"),
                ]
            await send(message)

        await self.app(scope, receive, with_header if scope["type"] == "http" else send)


class Handlers:
    """What happens on a click; knows the runs, and nothing of the layout."""

    def __init__(self, runs: list[tuple[str, Miracle]], log: Log):
        self.runs, self.log, self.tickets = runs, log, Tickets()
        self.model, self.schema = runs[0][1], runs[0][1].schema
        self.doubts = [model.scorer.coherence_warnings() if model.scorer else [] for _, model in runs]

    @property
    def default(self) -> Settings:
        """The run's own settings, with the first aspect of the first two attributes, so that the first reply shows control."""
        target = {attribute.name: attribute.aspects[0] for attribute in self.schema.attributes[:2]}
        return Settings(target, seed=self.model.control.seed, sample=self.model.control.start == "sample")

    def shown(self, turns: list[dict]) -> str:
        """The conversation."""
        return views.chat(turns, self.doubts[0])

    def ask(self, question: str, turns: list[dict], request: gr.Request) -> tuple:
        """Take a question at once, whatever the queue is like; leaves it in its box while another is under way."""
        text, note = cut(question or "")
        if not text or (turns and turns[-1]["waiting"]):
            return gr.skip(), gr.skip(), gr.skip()
        self.tickets.new(request.session_hash)
        turns = [*turns, {"question": text, "note": note, "text": "", "waiting": True, "result": None}]
        return "", turns, self.shown(turns)

    def answer(self, turns: list[dict], request: gr.Request, *values) -> Iterator[tuple]:
        """Reply to the question that waits, word by word."""
        if not turns or not turns[-1]["waiting"]:
            yield gr.skip(), gr.skip()
            return
        ticket, settings, entry = (
            self.tickets.of(request.session_hash),
            Settings.read(self.schema, values),
            turns[-1],
        )
        if not ticket.stopped.is_set():
            try:
                for found in written(self.model, context_of(turns, settings.remember), settings, ticket):
                    entry["result" if isinstance(found, Reply) else "text"] = found
                    if isinstance(found, str) and not ticket.cleared:
                        yield gr.skip(), self.shown(turns)
            except InputError as error:
                entry["text"] = str(error)
        entry["waiting"] = False
        if entry["result"] is not None:
            self.log("chat", self.runs[0][0], [entry["result"]])
        yield (
            (gr.skip(), gr.skip()) if ticket.cleared else (turns, self.shown(turns))
        )  # another question may have been asked since

    def stop(self, request: gr.Request) -> None:
        """End the visitor's reply after the next token."""
        self.tickets.stop(request.session_hash)

    def clear(self, request: gr.Request) -> tuple:
        """Forget the conversation."""
        self.tickets.stop(request.session_hash, cleared=True)
        return [], self.shown([])

    def leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.tickets.leave(request.session_hash)

    def combinations(self, question: str, *values) -> str:
        """One question under all combinations."""
        text, note = cut(question or "")
        settings = Settings.read(self.schema, values)
        try:
            replies = self.model.all_combinations(text, **settings.options(self.model))
        except InputError as error:
            return views.problem(error)
        self.log("combinations", self.runs[0][0], replies)
        return views.grid(self.schema, replies, note)

    def both(self, question: str, *values) -> str:
        """One question to every run; a run without an attribute ignores it."""
        text, note = cut(question or "")
        settings, replies = Settings.read(self.schema, values), []
        for name, model in self.runs:
            try:
                replies += model.reply(text, settings.target_of(model.schema), **settings.options(model))
            except InputError as error:
                return views.problem(error)
            self.log("two runs", name, replies[-1:])
        return views.side_by_side([name for name, _ in self.runs], replies, self.doubts, note)

    def map(self, turns: list[dict]) -> str:
        """The latent of the last reply."""
        answered = [turn for turn in turns if turn["result"] is not None]
        if not answered:
            return '<p class="note">Ask something in the first tab; this one then shows the latent of the last reply.</p>'
        try:
            return latent_map(self.model, answered[-1]["result"])
        except InputError as error:  # of a server, which keeps its latents
            return views.problem(error)

    def link(self, question: str, *values) -> str:
        """The link to the present settings."""
        return views.settings_link(
            to_link(self.schema, Settings.read(self.schema, values), cut(question or "")[0])
        )

    def load(self, request: gr.Request) -> list:
        """The settings of the page's address, and its question for every tab; without a question what was typed meanwhile stays."""
        settings, question = from_link(self.schema, dict(request.query_params), self.default)
        return [*settings.values(self.schema), *[question or gr.skip()] * (2 + (len(self.runs) > 1))]


def examples(folder: Path) -> list[str]:
    """A few first questions of the run's own test contexts, or of `QUESTIONS` where it has none."""
    path = folder / "generations.jsonl"
    found: dict[str, None] = {}
    for where, line in read_lines(path) if path.is_file() else ():
        context = parse_line(line, where, strict=False).get("context")
        if isinstance(context, list) and context and isinstance(context[0], str):
            found[context[0]] = None
        if len(found) == EXAMPLES:
            break
    return list(found) or list(QUESTIONS)


def strength_slider(name: str) -> gr.Slider:
    """A dial of one attribute, in powers of ten, with its factor beside it."""
    low, high, step = STRENGTHS
    with gr.Row(elem_classes="dial"):
        dial = gr.Slider(
            low,
            high,
            0.0,
            step=step,
            label=f"strength of {name}",
            elem_id=f"strength-{name}",
            container=False,
            buttons=[],
            show_label=False,
            min_width=100,
        )
        shown = gr.HTML(views.strength(0.0), elem_id=f"factor-{name}", min_width=50)
    dial.change(None, dial, shown, js=STRENGTH_LABEL)
    return dial


def settings_column(handlers: Handlers) -> list:
    """The inputs of `Settings.read`, in its order."""
    inputs, default = [], handlers.default
    gr.HTML("<h2>Aspects</h2>")
    for attribute in handlers.schema.attributes:
        with gr.Group(elem_classes="attribute"):
            choices = [("none", NONE), *((aspect, aspect) for aspect in attribute.aspects)]
            inputs.append(
                gr.Radio(
                    choices,
                    value=default.target.get(attribute.name, NONE),
                    label=attribute.name,
                    elem_id=f"aspect-{attribute.name}",
                )
            )
            inputs.append(strength_slider(attribute.name))
    with gr.Group(elem_classes="attribute"):
        inputs.append(
            gr.Number(default.seed, label="seed", precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed")
        )
        inputs.append(
            gr.Checkbox(
                default.sample,
                label="start from a sample of the prior",
                info="otherwise the first candidate starts from its mean",
                elem_id="sample",
            )
        )
        inputs.append(
            gr.Checkbox(default.remember, label="keep the conversation as context", elem_id="remember")
        )
    return inputs


def question_box(name: str, example: str) -> gr.Textbox:
    """A tab's question; the empty box shows an example."""
    placeholder = f"Ask something: {example if len(example) <= SHOWN else example[: SHOWN - 1] + '…'}"
    return gr.Textbox(
        placeholder=placeholder, label="question", elem_id=f"{name}-question", lines=1, max_lines=4
    )


def send_button(name: str, words: str) -> gr.Button:
    """What sends a tab's question."""
    return gr.Button(words, variant="primary", elem_id=f"{name}-send", min_width=90)


def offer(known: list[str], box: gr.Textbox) -> None:
    """Example questions that fill the box when they are clicked."""
    gr.Examples([[text] for text in known], box, label="Examples", examples_per_page=EXAMPLES)


def in_line(box: gr.Textbox) -> dict:
    """Options of what waits for the model: the place in the queue and the seconds stand in the question's box."""
    return {"concurrency_id": LINE, "show_progress": "minimal", "show_progress_on": box}


def build(runs: list[tuple[str, Miracle]], folder: Path, log: Path | None) -> gr.Blocks:
    """The page for one or two runs."""
    handlers, known, quiet = Handlers(runs, Log(log)), examples(folder), {"show_progress": "hidden"}
    at_once = {"queue": False, **quiet}
    count = len(handlers.schema.combinations())
    with gr.Blocks(title=f"MIRACLE: {runs[0][0]}", analytics_enabled=False, fill_width=True) as page:
        turns = gr.State([])
        gr.HTML(f'<h1>MIRACLE <span class="note">run {views.safe(runs[0][0])}</span></h1>')
        with gr.Row():
            with gr.Column(scale=5, min_width=320), gr.Tabs():
                with gr.Tab("Chat"):
                    shown = gr.HTML(views.chat([]), elem_id="chat", autoscroll=True, max_height=520)
                    box = question_box("chat", known[0])
                    with gr.Row():
                        send = send_button("chat", "Send")
                        stop = gr.Button("Stop", elem_id="stop", min_width=90)
                        clear = gr.Button("Clear", elem_id="clear", min_width=90)
                    offer(known, box)
                with gr.Tab("All combinations"):
                    grid_box, grid_send = (
                        question_box("grid", known[0]),
                        send_button("grid", f"Reply under all {count} combinations"),
                    )
                    grid = gr.HTML(elem_id="grid", min_height=60)
                    offer(known, grid_box)
                with gr.Tab("Latent map") as map_tab:
                    latents = gr.HTML(handlers.map([]), elem_id="map", min_height=60)
                if len(runs) > 1:
                    with gr.Tab("Two runs"):
                        both_box, both_send = question_box("both", known[0]), send_button("both", "Ask both")
                        both = gr.HTML(elem_id="both", min_height=60)
                        offer(known, both_box)
            with gr.Column(scale=2, min_width=280, elem_id="settings"):
                inputs = settings_column(handlers)
                link = gr.HTML(handlers.link("", *handlers.default.values(handlers.schema)), elem_id="link")
        asked = gr.on(
            [send.click, box.submit],
            handlers.ask,
            [box, turns],
            [box, turns, shown],
            api_name="ask",
            trigger_mode="multiple",
            **at_once,
        )
        asked.then(
            handlers.answer,
            [turns, *inputs],
            [turns, shown],
            api_name="answer",
            trigger_mode="multiple",
            **in_line(box),
        )
        stop.click(handlers.stop, None, None, api_name="stop", **at_once)
        clear.click(handlers.clear, None, [turns, shown], api_name="clear", **at_once)
        gr.on(
            [grid_send.click, grid_box.submit],
            handlers.combinations,
            [grid_box, *inputs],
            grid,
            api_name="combinations",
            **in_line(grid_box),
        )
        map_tab.select(handlers.map, turns, latents, api_name="map", concurrency_id=LINE)
        if len(runs) > 1:
            gr.on(
                [both_send.click, both_box.submit],
                handlers.both,
                [both_box, *inputs],
                both,
                api_name="both",
                **in_line(both_box),
            )
        changed = [component.change for component in [box, *inputs]]
        gr.on(
            changed,
            handlers.link,
            [box, *inputs],
            link,
            trigger_mode="always_last",
            api_visibility="private",
            **at_once,
        )
        boxes = [box, grid_box, *([both_box] if len(runs) > 1 else [])]
        page.load(handlers.load, None, [*inputs, *boxes], api_visibility="private", **at_once)
        page.unload(handlers.leave)
    return page


def serve(runs: list[tuple[str, Miracle]], folder: Path, port: int, log: Path | None) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C.

    Raises:
        InputError: where the port is taken, or the log cannot be written.
    """
    if log is not None and not log.parent.is_dir():
        raise InputError(f"--log {log}: there is no folder {log.parent}")
    page = build(runs, folder, log).queue(default_concurrency_limit=1, max_size=WAITING)
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
        Middleware(ContentSecurityPolicy),
    ]
    try:
        page.launch(
            server_name="127.0.0.1", server_port=port, share=False, quiet=True, ssr_mode=False, footer_links=[], theme=theme(), pwa=False,
            css_paths=Path(__file__).with_name("style.css"), app_kwargs={"middleware": guards}, enable_monitoring=False, mcp_server=False,
            prevent_thread_lock=True,
        )  # fmt: skip
    except OSError:
        raise InputError(f"port {port} of 127.0.0.1 cannot be used; name another with --port") from None
    print(f"the playground of {folder}: http://127.0.0.1:{port}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
