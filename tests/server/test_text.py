"""Text that is streamed only grows, and ends in front of a stop string."""

from server.text import GrowingText, held_back


class Letters:
    """A tokenizer whose tokens are bytes."""

    def decode(self, tokens, skip_special_tokens):
        return bytes(tokens).decode("utf-8", errors="replace")


def streamed(text: str, stops=()) -> list[str]:
    growing, tokens = GrowingText(Letters(), stops), list(text.encode())
    parts = [growing.more(tokens[: i + 1]) for i in range(len(tokens))]
    whole, _ = growing.read(tokens)
    parts.append(growing.rest(whole))
    assert "".join(parts) == whole
    return [part for part in parts if part]


def test_it_comes_letter_by_letter_and_with_single_spaces():
    assert streamed("a  b \n") == ["a", " b"]


def test_half_a_character_waits_for_the_rest():
    assert streamed("né ❄!") == ["n", "é", " ❄", "!"]


def test_nothing_of_a_stop_string_is_ever_sent():
    assert streamed("one END two", ("END",)) == ["o", "n", "e"]
    assert streamed("one ENTER", ("END",)) == ["o", "n", "e", " ENT", "ER"]
    assert streamed("one\ntwo", ("\n",)) == ["o", "n", "e"]
    assert held_back("abcab", ("abcd", "x")) == 2 and held_back("abcabc", ("abcd",)) == 3


def test_the_first_stop_string_counts():
    assert GrowingText(Letters(), ("b", "a")).read(list(b"xyab")) == ("xy", True)
    assert GrowingText(Letters(), ("q",)).read(list(b"xyab")) == ("xyab", False)
