"""The browser playground in a real browser, on a run trained for seconds: replies, bars, the grid, Stop, and text that stays text."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

pytest.importorskip("gradio")

from common.schema import Attribute, Schema  # noqa: E402
from miracle import Reply  # noqa: E402
from playground import views  # noqa: E402
from playground.latent_map import principal_axes  # noqa: E402
from playground.settings import LONGEST, Settings, cut, factor, from_link, to_link  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
EVIL = "<img src=x onerror=alert(1)> ${alert(2)} {{{this}}}"
HEBREW = "האם הלחם שלי יתפח?"
SCHEMA = Schema((Attribute("style", ("plain", "lyrical")), Attribute("mood", ("calm", "angry", "sad"))))
SLOW = """
import sys, time
from miracle import Miracle
import playground.page
quick = Miracle.reply
def reply(self, context, *words, on_text=None, **more):
    slow = on_text and "slowly" in context[-1]
    return quick(self, context, *words, on_text=(lambda text: time.sleep(0.8) or on_text(text)) if slow else on_text, **more)
Miracle.reply = reply
runs = [(name, Miracle.from_run(sys.argv[1])) for name in ("r", "twin")]
playground.page.serve(runs, playground.page.Path(sys.argv[1]), int(sys.argv[2]), None)
"""


# --- without a browser ---------------------------------------------------------------------------------------------


def test_a_link_brings_the_settings_back():
    settings = Settings({"mood": "sad"}, {"style": 0.0, "mood": -1.5}, 12, True, False)
    query = dict(parse_qsl(to_link(SCHEMA, settings, "a & b = ü?")[1:]))
    assert from_link(SCHEMA, query, Settings()) == (settings, "a & b = ü?")
    assert Settings.read(SCHEMA, tuple(settings.values(SCHEMA))) == settings


def test_a_link_s_nonsense_is_ignored():
    query = {
        "a.style": "sad",
        "a.colour": "red",
        "s.mood": "nan",
        "s.style": "1e9",
        "seed": "-1",
        "sample": "yes",
        "q": "x" * 9999,
    }
    settings, question = from_link(SCHEMA, query, Settings(seed=5))
    assert settings == Settings({}, {"style": 2.0, "mood": 0.0}, 5, False, True) and len(question) == LONGEST


def test_only_an_address_without_settings_has_the_default_s_aspects():
    default = Settings({"mood": "sad"}, seed=5)
    for query in ({}, {"q": "why?"}, {"utm": "x"}):
        assert from_link(SCHEMA, query, default)[0].target == {"mood": "sad"}
    without = dict(parse_qsl(to_link(SCHEMA, Settings(), "")[1:]))
    for query in (without, {"a.style": "lyrical"}, {"s.mood": "1"}, {"a.mood": ""}):
        assert "mood" not in from_link(SCHEMA, query, default)[0].target


def test_a_page_starts_with_two_aspects_and_has_examples(tmp_path):
    from types import SimpleNamespace

    from playground.page import QUESTIONS, Handlers, examples
    from playground.session import Log

    control = SimpleNamespace(seed=3, start="mean")
    model = SimpleNamespace(schema=SCHEMA, control=control, scorer=None)
    assert Handlers([("r", model)], Log(None)).default == Settings({"style": "plain", "mood": "calm"}, seed=3)
    assert examples(tmp_path) == list(QUESTIONS)
    (tmp_path / "generations.jsonl").write_text('{"context": ["Is it far?"]}\n')
    assert examples(tmp_path) == ["Is it far?"]


def test_the_dial_goes_from_a_hundredth_to_a_hundred():
    assert [factor(step / 2) for step in range(-4, 5)] == [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]


def test_long_messages_are_cut_with_a_note():
    assert cut("  short ") == ("short", "")
    text, note = cut("x" * 10_000)
    assert len(text) == LONGEST and "10,000 characters" in note


def test_texts_become_neither_markup_nor_template():
    shown = views.said(f'{EVIL} "quoted" `tick` \\', "question")
    inside = shown.removeprefix('<p class="question" dir="auto">').removesuffix("</p>")
    assert not set("<>\"'${}`\\") & set(inside)


def test_coherence_that_is_in_doubt_says_so_beside_its_bar():
    reply = Reply(
        "Yes.",
        ("Why?",),
        {},
        {},
        0,
        {"mood": "calm"},
        {"mood": {"calm": 0.9, "wild": 0.1}},
        0.7,
        0.0,
        0.0,
        0.1,
    )
    entry = {"question": "Why?", "note": "", "text": "", "waiting": False, "result": reply}
    assert 'class="doubt" title="coherence: fooled by &quot;x&quot;; and weak"' in views.chat(
        [entry], ['coherence: fooled by "x"', "and weak"]
    )
    assert "doubt" not in views.chat([entry]) and "doubt" not in views.answer(reply)
    named = views.bars(reply)  # groups with names: under the page's one h1 an h4 skipped two levels
    assert 'role="group" aria-label="mood"' in named and "<h" not in named


def test_principal_axes_find_the_long_direction():
    import numpy as np

    points = np.random.default_rng(0).normal(size=(200, 3)) * [5.0, 1.0, 0.1]
    mean, axes, explained = principal_axes(points)
    assert abs(axes[0][0]) > 0.99 and explained[0] > 0.9 and mean.shape == (3,)


# --- in the browser ------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def address(tiny_run, tmp_path_factory):
    """A server of its own process; a question with the word "slowly" is answered slowly."""
    import urllib.error
    import urllib.request

    port, said = free_port(), tmp_path_factory.mktemp("server") / "log"
    with said.open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", SLOW, str(tiny_run), str(port)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
            break
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, said.read_text()
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/"
    server.terminate()
    server.wait(20)
    assert "Traceback" not in said.read_text() and "alert" not in said.read_text()  # nothing typed is logged


@pytest.fixture(scope="session")
def chromium(open_chromium):
    """A browser that keeps the log of its requests."""
    running = open_chromium(logs=("browser", "performance"))
    running.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1180, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    yield running
    running.quit()


class Page:
    """The playground as a visitor sees it."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address

    def open(self, query=""):
        self.browser.get(self.address + query)
        self.until(lambda: self.all("#chat-question textarea") and self.all(".settings-link"))
        wanted = query[1:].split("&")[0]
        self.until(lambda: wanted in self.one(".settings-link").get_attribute("href"))
        return self

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def until(self, true, seconds=60):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.browser, seconds, 0.05, [StaleElementReferenceException]).until(
            lambda _: true()
        )

    def type(self, text, tab="chat"):
        script = """
            const box = document.querySelector(arguments[0]);
            Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, arguments[1]);
            box.dispatchEvent(new Event("input", {bubbles: true}));
        """
        self.browser.execute_script(script, f"#{tab}-question textarea", text)

    def send(self, text):
        """Ask in the chat; returns the text of the reply with its numbers."""
        before = len(self.all("#chat .facts"))
        self.type(text)
        self.one("#chat-send").click()
        self.until(lambda: len(self.all("#chat .facts")) == before + 1)
        return self.all("#chat .answered")[-1].text

    def choose(self, aspect):
        self.one(f"input[type=radio][value={aspect}]").click()
        self.until(lambda: f"={aspect}" in self.one(".settings-link").get_attribute("href"))

    def tab(self, name):
        next(button for button in self.all("button[role=tab]") if button.text == name).click()


@pytest.fixture
def page(chromium, address):
    return Page(chromium, address)


def test_the_page_asks_no_other_host_and_the_console_is_silent(page):
    page.browser.get_log("performance"), page.browser.get_log("browser")
    page.open().send("Will it rain?")
    messages = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    ours = urlsplit(page.address).netloc
    assert len(asked) > 5
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:", "chrome:"))} == {
        ours
    }
    assert [entry["message"] for entry in page.browser.get_log("browser")] == []


def test_the_keyboard_reaches_every_kind_of_setting_and_its_place_is_seen(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.open()
    kinds = {}
    for _ in range(40):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        kind, style = page.browser.execute_script(
            "const e = document.activeElement; return [e.type || e.tagName, getComputedStyle(e).outlineStyle]"
        )
        kinds.setdefault(kind, style)
    assert {kinds[kind] for kind in ("radio", "range", "checkbox")} == {"solid"}


def test_another_aspect_and_another_strength_give_another_reply(page):
    page.open("?remember=0&s.languagestyle=2")
    page.choose("lyrical")
    lyrical = page.send("My bread did not rise.")
    assert page.one("#chat .bar.wanted .name").text == "lyrical" and len(page.all("#chat .bar .number")) == 7
    page.choose("plain")
    plain = page.send("My bread did not rise.")
    widths = [bar.get_attribute("style") for bar in page.all("#chat .bar.wanted .fill")]
    assert lyrical != plain and len(widths) == 2
    page.browser.execute_script(
        "const dial = document.querySelector('#strength-languagestyle input[type=range]');"
        "dial.value = -1; dial.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    page.until(
        lambda: (
            page.one("#factor-languagestyle").text == "× 0.1"
            and "s.languagestyle=-1" in page.one(".settings-link").get_attribute("href")
        )
    )
    assert (
        page.send("My bread did not rise.") != plain
    )  # the energies are those of a thousandth of the weight


def test_the_first_reply_shows_control_and_the_box_an_example(page):
    page.open()
    page.until(lambda: page.one("#aspect-languagestyle input[value=plain]").is_selected())
    assert page.one("#aspect-attitude input[value=pessimistic]").is_selected()
    assert page.one("#chat-question textarea").get_attribute("placeholder").startswith("Ask something: ")
    page.send("Is it far?")
    assert [bar.text for bar in page.all("#chat .bar.wanted .name")] == ["plain", "pessimistic"]


def test_a_link_sets_the_page(page):
    page.open("?a.attitude=optimistic&s.attitude=1&seed=7&sample=0&q=Is+it+late%3F")
    assert page.one("#aspect-attitude input[value=optimistic]").is_selected()
    page.until(lambda: page.one("#factor-attitude").text == "× 10")
    assert (
        page.one("#seed input").get_attribute("value") == "7"
        and page.one("#chat-question textarea").get_attribute("value") == "Is it late?"
    )
    query = dict(parse_qsl(urlsplit(page.one(".settings-link").get_attribute("href")).query))
    assert query == {
        "a.attitude": "optimistic",
        "s.attitude": "1",
        "seed": "7",
        "sample": "0",
        "remember": "1",
        "q": "Is it late?",
    }


def test_the_grid_has_all_combinations(page):
    page.open("?q=" + "%3Cb%3Ewhy%3C%2Fb%3E")
    page.tab("All combinations")
    page.one("#grid-send").click()
    rows = page.until(lambda: page.all("#grid tbody tr"))
    cells = {tuple(cell.text for cell in row.find_elements("css selector", ".aspect")) for row in rows}
    assert len(rows) == len(cells) == 8
    assert all(0 <= float(number.text) <= 1 for number in page.all("#grid .number"))


def test_the_map_and_two_runs(page):
    page.open("?a.mindchar=critical")
    replied = page.send("Is it far?")
    page.tab("Latent map")
    picture = page.until(lambda: page.all("#map img"))[0]
    page.until(lambda: page.browser.execute_script("return arguments[0].naturalWidth", picture) > 500)
    page.tab("Two runs")
    page.type("Is it far?", "both")
    page.one("#both-send").click()
    columns = page.until(lambda: page.all("#both section"))
    assert [column.find_element("css selector", "h3").text for column in columns] == ["r", "twin"]
    numbers = [
        [number.text for number in column.find_elements("css selector", ".number")] for column in columns
    ]
    assert numbers[0] == numbers[1] and all(number in replied for number in numbers[0])


def test_stop_ends_a_reply_and_clear_forgets_all(page):
    page.open().type("Speak slowly.")
    page.one("#chat-send").click()
    page.until(
        lambda: page.all("#chat .under-way") and page.one("#chat .under-way").text not in ("", "waiting…")
    )
    page.one("#stop").click()
    stopped = time.monotonic()
    page.until(lambda: page.all("#chat .facts"))
    assert "stopped" in page.one("#chat .facts").text and time.monotonic() - stopped < 15
    page.type("Speak slowly again.")
    page.one("#chat-send").click()
    page.until(lambda: len(page.all("#chat .asked")) == 2)
    page.one("#clear").click()
    page.until(lambda: not page.all("#chat .asked"))
    assert page.send("And now?")  # once the reply under way came back last and wiped this question out
    assert len(page.all("#chat .asked")) == 1


def test_everyone_sees_their_place_in_the_queue(page, open_chromium):
    """Two visitors at once: the first is answered, the second sees the place in the queue until it is their turn."""
    page.open().type("Speak slowly.")
    other = Page(open_chromium(), page.address)
    try:
        other.open().type("Is it late?")
        page.one("#chat-send").click()
        page.until(
            lambda: page.all("#chat .under-way") and page.one("#chat .under-way").text not in ("", "waiting…")
        )
        other.one("#chat-send").click()
        # the page draws the place anew whenever it changes, so it is looked up each time
        places = lambda: other.all("#chat-question .meta-text")  # noqa: E731
        other.until(
            lambda: any(place.is_displayed() and place.text.startswith("queue: 1/1") for place in places())
        )
        assert other.one("#chat .under-way").text == "waiting…"
        page.one("#stop").click()
        other.until(lambda: other.all("#chat .facts"))
        other.until(lambda: not other.all("#chat-question .meta-text"))
    finally:
        other.browser.quit()


def test_markup_long_and_right_to_left_messages_come_back_harmless(page):
    page.open()
    page.send(EVIL)
    assert page.one("#chat .question").text == EVIL and not page.all("#chat img")
    page.send(HEBREW)
    question = page.all("#chat .question")[-1]
    assert (
        question.text == HEBREW
        and page.browser.execute_script("return getComputedStyle(arguments[0]).direction", question) == "rtl"
    )
    page.send("a <b>" * 2_000)
    assert (
        len(page.all("#chat .question")[-1].text) == LONGEST and "10,000 characters" in page.one("#chat").text
    )
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 400
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1180, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )


def test_twenty_users_at_once_are_all_answered(address):
    from scripts.bench_playground import measure, table

    found = measure(address, users=20, messages=2)
    assert (found["answered"], found["failed"], found["lost"]) == (40, 0, 0), found["failures"]
    assert 0 < found["seconds"]["p50"] <= found["seconds"]["p99"] <= found["seconds"]["max"]
    print(table(found | {"load": None}))


def test_the_load_run_counts_what_fails():
    from scripts.bench_playground import measure

    found = measure(f"http://127.0.0.1:{free_port()}/", users=2, messages=3)
    assert (found["sent"], found["answered"], found["failed"], found["seconds"]) == (
        6,
        0,
        6,
        {},
    ) and "cannot connect" in found["failures"][0]
