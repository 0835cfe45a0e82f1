"""The page that looks inside: its numbers are the model's, nothing leaves it, it can be used."""

import base64
import copy
import json
import re
import shutil
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.command import run
from support.sweeps import WHOLE
from support.tiny import WORDS, build, tiny_config

from minibert.explore.explore import (
    FIRST_TEXTS,
    MOST_TOKENS,
    contributions,
    figures,
    live_page,
    page,
)
from minibert.heads import BertForMaskedLM
from minibert.model import BertModel
from minibert.sentence_encoder import SentenceEncoder
from minibert.tokenization.tokenizer import BertTokenizer, split
from minibert.trace import trace

TEXTS = ["a b c d", "c d e f g ж"]  # [UNK] at the end
CHECKOUT = Path(__file__).parents[2]
BANKS = ["The bank raised its interest rates.", "She sat on the bank of the river."]


def random_encoder(
    layers: int = 2, heads: int = 4, tokens: int = 40, words: list[str] = WORDS, **changes: object
) -> SentenceEncoder:
    """Every number of it matters."""
    config = tiny_config(
        vocab_size=len(words),
        hidden_size=8 * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokens,
        **changes,
    )
    return SentenceEncoder(build(BertModel, config), BertTokenizer(words))


def embedded(html: str) -> dict:
    """The figures as a browser would read them."""
    (found,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html)
    return json.loads(found)


def attention(found: dict, text: int) -> np.ndarray:
    """(L, N, T, T), decoded."""
    numbers = unpack(found["texts"][text]["attention"], "<u2" if found["steps"] else "<f4")
    T = len(found["texts"][text]["tokens"])
    return numbers.reshape(found["layers"], found["heads"], T, T) / np.float32(found["steps"] or 1)


def unpack(text: str, dtype: str) -> np.ndarray:
    """Bytes of like rank stand side by side."""
    width = np.dtype(dtype).itemsize
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(width, -1)
    return planes.T.copy().view(dtype).ravel()


def traced(encoder: SentenceEncoder, text: str) -> np.ndarray:
    """The attention of a text, (L, N, T, T), from the trace."""
    with torch.no_grad(), trace(encoder.model) as tensors:
        encoder.model(**encoder.tokenizer(text))
    L = len(encoder.model.layers)
    maps = [tensors[f"layers.{i}.attention.probabilities"][0] for i in range(L)]
    return torch.stack(maps).numpy()


def layer_by_layer(
    encoder: SentenceEncoder, text: str, t: int
) -> tuple[np.ndarray, list, np.ndarray]:
    """The way of token t: the shares of what is new, the nearest words of each stage, cosines.

    What is new is what a sum has more than what went into it.
    """
    with torch.no_grad(), trace(encoder.model) as tensors:
        encoder.model(**encoder.tokenizer(text))
    tensors = {name: x[0, t].double() for name, x in tensors.items() if x.ndim == 3}
    shares, stages = [], [tensors["embeddings"]]
    for i in range(len(encoder.model.layers)):
        kept = stages[-1]
        for part in (f"layers.{i}.attention", f"layers.{i}.feed_forward"):
            new = (tensors[f"{part}_sum"] - kept).norm()
            shares.append(new / (new + kept.norm()))
            kept = tensors[f"{part}_norm"]
        stages.append(kept)
    table = encoder.model.embeddings.word.weight.double()
    cosines = torch.cosine_similarity(table, torch.stack(stages)[:, None], dim=-1)  # (L + 1, V)
    ids = cosines.argsort(descending=True)[:, :3]
    words = [encoder.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
    return torch.stack(shares).numpy(), words, cosines.gather(1, ids).detach().numpy()


def random_with_head() -> tuple[SentenceEncoder, BertForMaskedLM]:
    """The same BERT in an encoder and under a masked-LM head."""
    config = tiny_config(vocab_size=len(WORDS), max_position_embeddings=60)
    masked_lm = build(BertForMaskedLM, config)
    return SentenceEncoder(masked_lm.bert, BertTokenizer(WORDS)), masked_lm


def layer_guesses(
    masked_lm: BertForMaskedLM, tokenizer: BertTokenizer, text: str, t: int
) -> tuple[list, np.ndarray]:
    """The three best guesses of each stage for token t, by a model that ends there; and their p."""
    words, probabilities = [], []
    for layers in range(len(masked_lm.bert.layers) + 1):
        short = copy.deepcopy(masked_lm)
        del short.bert.layers[layers:]
        with torch.no_grad():
            p, ids = short(**tokenizer(text)).logits[0, t].softmax(-1).topk(3)
        words.append(tokenizer.convert_ids_to_tokens(ids.tolist()))
        probabilities.append(p.numpy())
    return words, np.stack(probabilities)


def cosine_without_head(encoder: SentenceEncoder, texts: list[str], layer: int, head: int) -> float:
    """Another way to silence a head: all its probabilities are 0, so it hands on nothing."""

    def silence(module, inputs, output):
        return output.index_fill(1, torch.tensor(head), 0)  # (B, N, T, T)

    hook = encoder.model.layers[layer].attention.probabilities.register_forward_hook(silence)
    first, second = encoder.encode(texts)
    hook.remove()
    return float(first @ second)


def cosine_without_token(
    encoder: SentenceEncoder, text: str, token: int, other: np.ndarray
) -> float:
    """The mean over the other tokens, none of which has seen this one, against another vector."""
    batch = encoder.tokenizer(text)
    batch["attention_mask"][0, token] = 0
    with torch.no_grad():
        hidden = encoder.model(**batch).last_hidden_state[0].numpy()
    vector = np.delete(hidden, token, axis=0).mean(0)
    return float(vector @ other / np.linalg.norm(vector))


close = partial(np.allclose, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------- numbers


def test_a_contribution_by_hand():
    first = torch.tensor([[1.0, 0.0], [1.0, 2.0]])  # mean (1, 1)
    second = torch.tensor([[3.0, -1.0]])
    table = contributions(first, second)
    assert torch.allclose(table * 2 * 20**0.5, torch.tensor([[3.0], [1.0]]).double())


def test_the_figures_on_the_page_are_those_of_the_library():
    encoder = random_encoder()
    found = embedded(page(figures(encoder, TEXTS, "some/model")))
    assert (found["model"], found["layers"], found["heads"]) == ("some/model", 2, 4)
    for i, text in enumerate(TEXTS):
        assert np.array_equal(attention(found, i), traced(encoder, text))
    first, second = encoder.encode(TEXTS)
    pairs = unpack(found["contributions"], "<f4")
    assert close([found["cosine"], np.sum(pairs)], first @ second)
    assert len(pairs) == 6 * 8
    assert close(found["vectors"], [first, second])
    assert found["texts"][1]["tokens"] == ["[CLS]", *"cdefg", "[UNK]", "[SEP]"]
    assert found["texts"][1]["words"] == ["", *"cdefgж", ""]
    shares, words, cosines = layer_by_layer(encoder, TEXTS[1], 3)
    assert close(unpack(found["texts"][1]["added"], "<f4").reshape(8, -1)[3], shares)
    nearest = found["texts"][1]["nearest"][3]
    assert [[word for word, _ in stage] for stage in nearest] == words
    assert close([[cosine for _, cosine in stage] for stage in nearest], cosines)


def test_the_guesses_are_those_of_the_head_after_each_layer():
    encoder, masked_lm = random_with_head()
    (text,) = figures(encoder, TEXTS[1:], head=masked_lm.predictions)["texts"]
    words, probabilities = layer_guesses(masked_lm, encoder.tokenizer, TEXTS[1], 3)
    assert [[word for word, _ in stage] for stage in text["guesses"][3]] == words
    assert close([[p for _, p in stage] for stage in text["guesses"][3]], probabilities)
    with torch.no_grad():
        logits = masked_lm(**encoder.tokenizer(TEXTS[1])).logits[0, 3]
    assert close(probabilities[-1], logits.softmax(-1).topk(3).values)
    assert figures(encoder, TEXTS[1:])["texts"][0]["guesses"] is None


def test_masked_heads_and_tokens_are_those_of_a_model_without_them():
    encoder = random_encoder()
    whole = encoder.encode(TEXTS)
    found = figures(encoder, TEXTS)
    assert np.array_equal(encoder.encode(TEXTS), whole), "nothing is left in the model"
    for layer in range(2):
        for head in range(4):
            expected = cosine_without_head(encoder, TEXTS, layer, head)
            assert close(found["without_head"][layer][head], expected)
    for text, table in enumerate(found["without_token"]):
        assert len(table) == len(found["texts"][text]["tokens"])
        for token, value in enumerate(table):
            expected = cosine_without_token(encoder, TEXTS[text], token, whole[1 - text])
            assert close(value, expected)
    differences = np.array(found["without_head"]) - found["cosine"]
    assert np.abs(differences).min() > 1e-4  # so that the comparison above says something


def test_one_text_is_compared_with_itself():
    encoder = random_encoder()
    found = figures(encoder, TEXTS[:1])
    assert abs(found["cosine"] - 1) <= 1e-6 and found["contributions"] is None
    whole = encoder.encode(TEXTS[0])
    assert close(found["without_token"][0][2], cosine_without_token(encoder, TEXTS[0], 2, whole))
    assert len(found["without_token"]) == 1 and max(map(max, found["without_head"])) < 1


def test_refusals(tiny):
    damaged = random_encoder()
    damaged.model.layers[1].attention_norm.bias.data[3] = torch.nan
    others = {
        "cuts the vector short": {"truncate_dim": 5},
        "leaves the prompt out": {"include_prompt": False, "prompts": {"q": "q "},
                                  "default_prompt_name": "q"},
        "pools by cls": {"pooling": ["cls"]},
    }  # fmt: skip
    for message, settings in others.items():
        by_cls = SentenceEncoder(tiny.model, tiny.tokenizer, **settings)
        with pytest.raises(ValueError, match=f"only the mean alone allows; this model {message}"):
            figures(by_cls, TEXTS)
    for encoder, texts, message in (
        (tiny, ["a", "b", "c"], "^3 texts; the page shows one, or two"),
        (damaged, TEXTS, "NaN or infinity: its weights are damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            figures(encoder, texts)
    for encoder, texts, message in ((tiny, ["a"], "^1 texts"), (by_cls, TEXTS, "pools by cls")):
        with pytest.raises(ValueError, match=message):
            live_page(encoder, texts)


def test_a_long_text_is_cut_and_its_length_told(tiny):
    for encoder, most in ((tiny, 16), (random_encoder(tokens=MOST_TOKENS + 9), MOST_TOKENS)):
        found = figures(encoder, ["a " * 140, "b"])["texts"]
        assert [(len(text["tokens"]), text["length"]) for text in found] == [(most, 142), (3, 3)]
        assert found[0]["tokens"][-1] == "[SEP]"


def test_many_probabilities_are_rounded_so_that_the_page_stays_small(monkeypatch):
    """To 128 tokens in both texts, six layers of twelve heads, it is below 3 MB."""
    encoder = random_encoder()
    texts = ["a b c d e f " * 6, "g h i j k " * 7]
    exact = embedded(page(figures(encoder, texts)))
    monkeypatch.setattr("minibert.explore.explore.EXACT", 1000)
    rounded = embedded(page(figures(encoder, texts)))
    for text in (0, 1):
        apart = np.abs(attention(rounded, text) - attention(exact, text)).max()
        assert 1e-5 < apart <= 0.5 / 2**14 + 1e-7
        lengths = [len(found["texts"][text]["attention"]) for found in (rounded, exact)]
        assert lengths[0] < 0.5 * lengths[1]
        assert exact["texts"][text]["nearest"] and not rounded["texts"][text]["nearest"]


def test_prompts_are_those_of_encode():
    parts = random_encoder()
    encoder = SentenceEncoder(
        parts.model, parts.tokenizer, prompts={"query": "q r "}, default_prompt_name="query"
    )
    found = figures(encoder, ["A b", "C"])
    assert found["texts"][0]["tokens"] == ["[CLS]", *"qrab", "[SEP]"]
    first, second = encoder.encode(["A b", "C"])
    assert abs(found["cosine"] - first @ second) <= 1e-5


# -------------------------------------------------------------------------------- one file


def test_texts_are_escaped_and_the_page_asks_nothing_of_others():
    evil = "</script><script>document.title='a'</script><!-- & \" ' \u2028"
    html = page(figures(random_encoder(), [evil, "FIGURES"], "<i>m</i>"))
    live = live_page(random_encoder(), [evil, "SCRIPTS"], "<i>m</i>")
    for whole, scripts in ((html, 4), (live, 7)):
        assert whole.count("<script") == whole.count("</script>") == scripts
    found = embedded(html)
    assert [text["text"] for text in found["texts"]] == [evil, "FIGURES"]
    assert found["model"] == "<i>m</i>"
    for whole in (html, live):
        asked = r"(?i)https?:|url\(|@import|fetch\(|XMLHttp|WebSocket|innerHTML"
        assert not re.search(asked, whole)
        assert re.findall(r"(?i)\b(?:src|href)\s*=\s*\S+", whole) == ['href="data:,">']
        assert "default-src 'none'" in whole


def test_the_command(capsys, model, tmp_path):
    out = tmp_path / "page.html"
    arguments = ["explore", "a b", "c", "--out", out, "--model", model]
    said = run(capsys, *arguments)[1]
    assert said.startswith(f"{out}: 2 layers, 4 heads, 4 and 3 tokens\ncosine ")
    found = embedded(out.read_text(encoding="utf-8"))
    summary = json.loads(run(capsys, *arguments, "--json", "--force")[1])
    assert summary["tokens"] == [["[CLS]", "a", "b", "[SEP]"], ["[CLS]", "c", "[SEP]"]]
    assert summary["out"] == str(out)
    assert summary["cosine"] == found["cosine"] and np.shape(summary["contributions"]) == (4, 3)
    warned = run(capsys, "explore", "a " * 20, *arguments[3:], "--force")[2]
    assert "text 1 has 22 tokens and was cut to 16" in warned
    assert found["texts"][0]["guesses"] is None


@pytest.mark.filterwarnings("ignore:.*does not say how to pool")
def test_the_command_shows_what_a_masked_lm_guesses(capsys, tmp_path):
    """After the last layer that is what fill-mask says."""
    out, text = tmp_path / "page.html", "They had bread and [MASK] for breakfast."
    run(capsys, "explore", text, "--out", out, "--model", "minibert-tiny")
    (found,) = embedded(out.read_text(encoding="utf-8"))["texts"]
    last = found["guesses"][found["tokens"].index("[MASK]")][-1]
    guesses = json.loads(run(capsys, "fill-mask", text, "-k", "3", "--json")[1])["masks"][0]
    assert [word for word, _ in last] == [guess["token"] for guess in guesses]
    assert close([p for _, p in last], [guess["probability"] for guess in guesses])


def test_the_command_for_a_live_page(capsys, model, tmp_path, monkeypatch):
    """That of minibert-small, which comes with minibert, is at most 25 MB."""
    out = tmp_path / "page.html"
    said = run(capsys, "explore", "--live", "--out", out)[1]
    assert said.startswith(f"{out}: minibert-small itself, 2")
    assert said.endswith(" MB; open it in a browser and type\n")
    assert 10e6 < out.stat().st_size <= 25e6
    monkeypatch.setattr("minibert.explore.explore.LARGE", 1000)
    arguments = ["explore", "--live", "a", "b c", "--out", out, "--model", model, "--force"]
    status, said, warned = run(capsys, *arguments)
    assert status == 0 and "a lot for a page" in warned
    assert '"texts": ["a", "b c"]' in out.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------ a real browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A headless chromium with a profile of its own."""
    hint = "apt-get install chromium chromium-driver; pip install -e .[test]"
    webdriver = pytest.importorskip("selenium.webdriver", reason=f"no selenium: {hint}")
    programs = ("chromium", "chromium-browser", "google-chrome")
    binary, driver = next(filter(None, map(shutil.which, programs)), None), "chromedriver"
    if not binary or not shutil.which(driver):
        pytest.skip(f"no chromium with its chromedriver: {hint}")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = "headless=new no-sandbox disable-gpu disable-dev-shm-usage no-first-run disable-sync"
    flags += " disable-quic disable-background-networking disable-component-update"
    for flag in [*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which(driver)))
    yield browser
    browser.quit()


class Page:
    """What a reader sees and does, at a desk or, by touch, on a phone."""

    def __init__(self, browser, path: Path, html: str, phone: bool = False) -> None:
        path.write_text(html, encoding="utf-8")
        self.browser, self.phone = browser, phone
        size = {"width": 400, "height": 800} if phone else {"width": 1280, "height": 900}
        for name, values in (
            ("setDeviceMetricsOverride", {**size, "deviceScaleFactor": 1, "mobile": phone}),
            ("setTouchEmulationEnabled", {"enabled": phone}),
        ):
            browser.execute_cdp_cmd(f"Emulation.{name}", values)
        self.open(path.as_uri())

    def open(self, address: str) -> None:
        """As a new page, when it has been drawn."""
        self.browser.get("about:blank")
        self.browser.get(address)
        wait(self.browser, "return !!document.querySelector('.chip')")

    def find(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.find(selector)[0].text.replace("−", "-")

    def shows(self, selector: str, *expected: float) -> bool:
        """Whether these are the decimal fractions in a text."""
        numbers = [float(x) for x in re.findall(r"-?\d+\.\d+", self.text(selector))]
        return len(numbers) == len(expected) and close(numbers, expected)

    def chips(self, text: int) -> list:
        return self.find(".chips")[text].find_elements("css selector", ".chip")

    def words(self, text: int) -> list[str]:
        return self.browser.execute_script(
            "return [...document.querySelectorAll('.chips')[arguments[0]].children]"
            ".map((chip) => chip.innerText.split('\\n')[0])",
            text,
        )

    def probabilities(self, text: int) -> list[float]:
        """Under the tokens; what is printed are the first digits of it."""
        found = self.browser.execute_script(
            "return [...document.querySelectorAll('.chips')[arguments[0]].querySelectorAll('data')]"
            ".map((data) => [data.innerText, Number(data.value)])",
            text,
        )
        assert [shown for shown, _ in found] == [f"{value:.3f}" for _, value in found]
        return [value for _, value in found]

    def shows_way(self, encoder: SentenceEncoder, text: str, token: int) -> bool:
        """Whether the table of the layers is that of a token."""
        stages = self.browser.execute_script(
            "return [...document.querySelectorAll('#stages tr')].map((row) => "
            "['.share', '.nearest'].map((part) => [...row.querySelectorAll(part)].map((one) => "
            "[one.textContent.split(' ')[0], Number(one.querySelector('data').value)])))"
        )
        shares, words, cosines = layer_by_layer(encoder, text, token)
        found = [[value for _, value in stage[0]] for stage in stages[1:]]
        return (
            close(np.ravel(found), shares)
            and [[word for word, _ in stage[1]] for stage in stages] == words
            and close([[cosine for _, cosine in stage[1]] for stage in stages], cosines)
        )

    def click(self, element, press: bool = True) -> None:
        """With a mouse, or on the phone with a finger; without ``press`` only point at it."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        self.browser.execute_script(
            "arguments[0].scrollIntoView({block: 'center'}); window.clicked = false;"
            "addEventListener('click', () => { clicked = true; }, { capture: true, once: true })",
            element,
        )
        pointer = PointerInput("touch", "finger") if self.phone else PointerInput("mouse", "mouse")
        actions = ActionBuilder(self.browser, mouse=pointer, duration=0)
        there = actions.pointer_action.move_to(element)
        if press:
            there.pointer_down().pointer_up()
        actions.perform()
        if press:  # a tap becomes a click a little later
            wait(self.browser, "return clicked")

    def keys(self, *names: str) -> None:
        """To what has the focus."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.browser).send_keys(*(getattr(Keys, n, n) for n in names)).perform()

    def choose(self, label: str, number: int) -> None:
        self.find(f"#{label} option[value='{number}']")[0].click()

    def has_no_fault(self) -> bool:
        """Nothing in the browser's log, nothing fetched, and no scrolling sideways."""
        wide = self.browser.execute_script(  # innerWidth grows on a phone with what is too wide
            "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
        )
        fetched = self.browser.execute_script("return performance.getEntriesByType('resource')")
        return wide <= 0 and self.browser.get_log("browser") == fetched == []


@pytest.mark.browser
@pytest.mark.weights
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_the_numbers_that_a_reader_sees(chromium, official, tmp_path, phone):
    encoder = SentenceEncoder.from_pretrained(official)
    found = figures(encoder, BANKS, "all-MiniLM-L6-v2")
    seen = Page(chromium, tmp_path / "page.html", page(found), phone)
    maps = [traced(encoder, text) for text in BANKS]
    first, second = encoder.encode(BANKS)
    whole = first @ second

    def effect(without: float) -> bool:
        return seen.shows("#effect", whole, without, without - whole)

    assert chromium.title == "Looking inside all-MiniLM-L6-v2"
    assert seen.words(0)[:3] == ["[CLS]", "the", "bank"]
    assert seen.shows("#score", whole) and not seen.find("th.guess")[0].is_displayed()

    # A token, by a click or a tap; a head, by a click and by its number.
    seen.click(seen.find("#heads button")[4 * 12 + 9])
    seen.click(seen.chips(0)[5])
    assert close(seen.probabilities(0), maps[0][4, 9, 5])
    assert seen.shows("#says", *np.sort(maps[0][4, 9, 5])[::-1][:5])
    seen.choose("layer", 2)
    seen.choose("head", 11)
    seen.click(seen.chips(1)[4])
    assert close(seen.probabilities(1), maps[1][2, 11, 4])
    assert seen.text("#large") == "Layer 2, head 11, text 2"

    # The same with keys; beyond the last token there is nothing. A pointer shows in passing.
    seen.click(seen.chips(0)[7])
    seen.keys("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
    assert close(seen.probabilities(0), maps[0][2, 11, 8])
    chromium.execute_script("document.querySelector('#heads [tabindex=\"0\"]').focus()")
    seen.keys("ARROW_DOWN", "ARROW_LEFT", "m")
    assert seen.text("#large") == "Layer 3, head 10, text 1"
    assert effect(cosine_without_head(encoder, BANKS, 3, 10))
    seen.keys("m", "ARROW_UP", "ARROW_RIGHT")
    if not phone:
        for place, token in ((seen.chips(0)[3], 3), (seen.find("h1")[0], 8)):
            seen.click(place, press=False)
            assert close(seen.probabilities(0), maps[0][2, 11, token])

    # A cell of the large map, walked to with keys.
    seen.click(seen.chips(1)[3])
    chromium.execute_script("document.getElementById('map').focus()")
    seen.keys("ARROW_DOWN", "ARROW_DOWN", "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
    assert "“bank” attends to “on”" in seen.text("#map-value")
    assert seen.shows("#map-value", maps[1][2, 11, 5, 3])

    # A cell of it, by a click: the sentence under the map says which one that was.
    seen.choose("text", 0)
    seen.click(seen.find("#map")[0])
    row, column = re.findall("“(.*?)”", seen.text("#map-value"))
    i, j = seen.words(0).index(row), seen.words(0).index(column)
    assert i > 1 and j > 1 and seen.chips(0)[i].get_attribute("aria-pressed") == "true"
    assert seen.shows("#map-value", maps[0][2, 11, i, j])
    seen.click(seen.chips(1)[5])

    # Masks: a head in both texts, a token in its own, and off again.
    seen.click(seen.find("#mask-head")[0])
    assert effect(cosine_without_head(encoder, BANKS, 2, 11))
    seen.click(seen.find("#mask-token")[0])
    without = cosine_without_token(encoder, BANKS[1], 5, first)
    assert effect(without) and seen.shows("#score", without, without - whole)
    assert "masked" in seen.chips(1)[5].get_attribute("class")
    seen.click(seen.find("#unmask")[0])
    assert seen.shows("#effect", whole)

    # The pairs: the sum, and single ones.
    with torch.no_grad():
        states = [encoder.model(**encoder.tokenizer(text)).last_hidden_state[0] for text in BANKS]
    table = contributions(*states).numpy()
    assert seen.shows("#sum", whole, whole) and "9 × 11 = 99 pairs" in seen.text("#sum")
    assert seen.shows("#top-pairs", *np.sort(table.flatten())[::-1][:8])
    seen.click(seen.find("#top-pairs button")[1])
    i, j = np.unravel_index(np.argsort(table.flatten())[-2], table.shape)
    assert seen.shows("#pair-value", table[i, j], table[i].sum())

    # The address brings back what was chosen; what is not on this page becomes what is nearest.
    seen.click(seen.find("#mask-head")[0])
    wait(chromium, "return location.hash.includes('mask=head-2-11')")
    link = chromium.current_url
    seen.open(link.replace("mask=head-2-11", "mask=token-1-99"))
    assert effect(cosine_without_token(encoder, BANKS[1], 10, first))
    seen.open(link)
    assert effect(cosine_without_head(encoder, BANKS, 2, 11))
    assert seen.text("#large") == "Layer 2, head 11, text 2"
    assert close(seen.probabilities(1), maps[1][2, 11, 5])
    assert seen.shows("#pair-value", table[i, j], table[i].sum())

    # The map leads to a layer, the tour to six parts, each with two sentences about these texts.
    seen.click(seen.find("#stops button")[2 + 4])
    assert seen.text("#large") == "Layer 4, head 11, text 2"
    seen.click(seen.find("#start-tour")[0])
    assert seen.shows_way(encoder, BANKS[1], 5)
    said = []
    for number in range(1, 7):
        assert seen.text("#tour-step") == f"Step {number} of 6"
        said.append(seen.text("#tour-says"))
        seen.click(seen.find("#tour-next")[0])
    assert not seen.find("#tour")[0].is_displayed() and all(text.count(". ") == 1 for text in said)
    assert "9 and 11 tokens" in said[0] and "384 numbers" in said[0]
    head, token = (
        max(np.concatenate(found[name]), key=lambda x: abs(x - whole))
        for name in ("without_head", "without_token")
    )
    shares = layer_by_layer(encoder, BANKS[1], 5)[0][8:10]
    expected = (
        [maps[1][4, 11, 5].max()],
        shares,
        [head, whole, token, whole],
        [whole],
        [table.max()],
    )
    for text, values in zip(said[1:], expected, strict=True):
        assert close([float(x) for x in re.findall(r"-?\d+\.\d+", text)], values)
    assert seen.has_no_fault()


@pytest.mark.browser
def test_one_text_and_markup_in_it(chromium, tmp_path):
    """The parts for two texts are not there, and a text is shown as it was written."""
    evil = "<b>a</b></script><img src=x onerror=alert(1)>"
    encoder, masked_lm = random_with_head()
    found = figures(encoder, [evil + " [MASK]"], "<i>m</i>", masked_lm.predictions)
    seen = Page(chromium, tmp_path / "page.html", page(found), phone=True)
    (text,) = found["texts"]  # it opens at the token to be guessed
    guesses = sum(text["guesses"][text["tokens"].index("[MASK]")], [])
    shown = chromium.execute_script(
        "return [...document.querySelectorAll('.guessed')].map((one) => one.textContent)"
    )
    assert shown == [f"{word} {p:.3f}" for word, p in guesses] and guesses
    assert seen.find("th.guess")[0].is_displayed()
    assert not any(part.is_displayed() for part in seen.find(".pair"))
    assert evil in seen.text("#lines")
    assert "“[MASK]” attends most to:" in seen.text("#says")
    seen.click(seen.find("#mask-token")[0])
    assert len(re.findall(r"\d\.\d+", seen.text("#effect"))) == 3
    assert seen.has_no_fault()


# ------------------------------------------------------------------------------ a live page

PIECES = [*WORDS, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwyz"), *"你好的0129.,!-éσиж"]
PIECES += ["bank", "##ing", "##и", "ß", "##ß", "ab", "##cd"]
TYPED = [
    "", " ", "a", "Banking, a bank!", "ab cd abcd", "你好的 bank你好", "鸟", "Café déjà vu",
    "e\u0301a\u0323\u0301 x", "😀 a 😀😀b", "[MASK] a [MASK]b [mask] [CLS]", "word " * 30,
    "x" * 100, "x" * 101, "ΣΑΣ İstanbul ẞ ß", "a\u200bb\tc\u00a0d\ne\ufffdf", "жи й Й",
    "1.2-9 a_b", "\U00020000\u4e00\ufa10 가 \u1100\u1161", "'\"<>&</script>",
]  # fmt: skip

# What live.js makes of a text: its ids, and all tensors one behind the other, in base64.
READ = """
const { pieces, length, trace, vector } = read(arguments[0]);
known.clear();
const sizes = Object.entries(trace).map(([name, x]) => [name, x.length]);
const bytes = new Uint8Array(new Float32Array(
  sizes.reduce((sum, [, size]) => sum + size, 0)).buffer);
let at = 0, binary = "";
for (const x of Object.values(trace)) {
  bytes.set(new Uint8Array(x.buffer, x.byteOffset, x.byteLength), at);
  at += x.byteLength;
}
for (let i = 0; i < bytes.length; i += 8192)
  binary += String.fromCharCode(...bytes.subarray(i, i + 8192));
const ids = pieces.map((piece) => piece.id);
return { ids, length, sizes, binary: btoa(binary), vector: [...vector] };
"""

# What the rules of live.js make of each character between two letters, cut into words.
CLEANED = """
const is = readTables(block("live").tokenizer.tables);
const cleaned = (c) => arguments[1].reduce((text, rule) => RULES[rule](text, is), `a${c}b`);
return arguments[0].map((c) => split(cleaned(c), is).join(" "));
"""


def difference(browser, encoder: SentenceEncoder, text: str) -> float:
    """The largest one between any number of live.js and the library's; the ids must be equal.

    Of the library's in float64: sums of live.js have as many digits. In float32 the library itself
    is 4e-4 away, where minibert-small has numbers of 400 before a norm.
    """
    found = browser.execute_script(READ, text)
    batch = encoder.tokenizer.encode_batch([text], max_length=encoder.max_length)
    assert (found["ids"], found["length"]) == (batch.ids[0], batch.lengths[0]), text
    exact = copy.deepcopy(encoder.model).double()
    with torch.no_grad(), trace(exact) as tensors:
        exact(torch.tensor(batch.ids))
    parts = np.frombuffer(base64.b64decode(found["binary"]), "<f4")
    parts = np.split(parts, np.cumsum([size for _, size in found["sizes"]])[:-1])
    mine = {name: part for (name, _), part in zip(found["sizes"], parts, strict=True)}
    assert np.array_equal(mine.pop("last_hidden_state"), list(mine.values())[-1])
    assert mine.keys() == {name for name in tensors if not name.startswith("pooler")}
    vector = np.array(found["vector"])
    mine["vector"] = vector / np.linalg.norm(vector)
    tensors["vector"] = torch.from_numpy(encoder.encode(text))
    return max(np.abs(x - tensors[name].numpy().ravel()).max() for name, x in mine.items())


def open_live(browser, path: Path, encoder: SentenceEncoder, name: str, phone=False) -> Page:
    """A live page, when it has computed for the first time."""
    seen = Page(browser, path, live_page(encoder, FIRST_TEXTS, name), phone)
    wait(browser, "return !!document.getElementById('took').textContent")
    return seen


def wait(browser, script: str) -> None:
    """Until a script in the page returns true."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 120, 0.05).until(lambda _: browser.execute_script(script))


@pytest.mark.browser
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.filterwarnings("ignore:.*(more than 40 tokens|knows nothing of)")
def test_the_model_in_the_page_is_that_of_the_library(chromium, tmp_path, activation):
    """A weight has 32 or 52 rows: three are taken at once, so two are left over, or one."""
    encoder = random_encoder(words=PIECES, intermediate_size=52, hidden_act=activation)
    seen = open_live(chromium, tmp_path / "page.html", encoder, "tiny")
    texts = TYPED if activation == "gelu" else TYPED[3:6]
    assert max(difference(chromium, encoder, text) for text in texts) <= 1e-4
    assert seen.has_no_fault()


@pytest.mark.browser
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
@pytest.mark.filterwarnings("ignore:.*(more than 9 tokens|knows nothing of)")
def test_what_is_typed_is_computed(chromium, tmp_path, phone):
    """Tokens, maps, cosine; what is unknown or cut is said; maps under a mask are those of it."""
    encoder = random_encoder(words=PIECES, tokens=9)
    seen = open_live(chromium, tmp_path / "page.html", encoder, "tiny", phone)
    texts = ["ab cd", "你好 ab 鸟" + " x" * 6]
    for number, text in enumerate(texts, 1):
        field = seen.find(f"#text-{number}")[0]
        field.clear()
        field.send_keys(text)
    assert seen.words(0) == ["[CLS]", "ab", "c", "##d", "[SEP]"]
    assert seen.words(1)[:5] == ["[CLS]", "你", "好", "ab", "[UNK] (鸟)"]
    said = [item.text for item in seen.find("#warnings li")]
    assert "has 12 tokens and was cut to 9" in said[0] and "“鸟”" in said[1] and len(said) == 2
    first, second = encoder.encode(texts)
    assert seen.shows("#score", first @ second)
    seen.choose("layer", 1)
    seen.click(seen.chips(0)[2])
    assert close(seen.probabilities(0), traced(encoder, texts[0])[1, 0, 2])

    seen.choose("layer", 0)
    seen.click(seen.find("#mask-head")[0])
    without = cosine_without_head(encoder, texts, 0, 0)
    assert seen.shows("#effect", first @ second, without, without - first @ second)
    seen.choose("layer", 1)  # what it reads has changed
    assert not close(seen.probabilities(0), traced(encoder, texts[0])[1, 0, 2])
    seen.click(seen.find("#mask-token")[0])
    assert seen.probabilities(0)[2] == 0
    without = cosine_without_token(encoder, texts[0], 2, second)
    assert seen.shows("#score", without, without - first @ second)

    # The same text twice: what is left is rounding, and no head the strongest.
    for number in (1, 2):
        field = seen.find(f"#text-{number}")[0]
        field.clear()
        field.send_keys("a b")
    assert seen.shows("#score", 1) and not seen.find("#warnings")[0].is_displayed()
    wait(chromium, "return document.getElementById('top-heads').textContent != '…'")
    assert seen.text("#top-heads") == "No head changes the cosine by 0.00001 or more."
    assert {bar.size["width"] for bar in seen.find("#heads i")} == {0}
    # Its address keeps the texts as well.
    link = f"text-1={texts[0]}&text-2={texts[1]}&head=0-0&token=0-2"
    chromium.execute_script("location.hash = arguments[0]", link)
    wait(chromium, "return document.getElementById('text-1').value !== 'a b'")
    assert seen.shows("#score", first @ second)
    assert close(seen.probabilities(0), traced(encoder, texts[0])[0, 0, 2])

    # A token's way, and the score of a pair, number by number.
    wait(chromium, "return !!document.querySelector('.nearest')")
    assert seen.shows_way(encoder, texts[0], 2)
    chromium.execute_script("document.getElementById('score-parts').focus()")
    seen.keys("ARROW_RIGHT")
    with torch.no_grad(), trace(encoder.model) as tensors:
        encoder.model(**encoder.tokenizer(texts[0]))
    query, key = (tensors[f"layers.0.attention.{name}"][0] for name in ("query", "key"))
    parts = query[2, 1], key[0, 1], query[2, 1] * key[0, 1] / 8**0.5
    assert seen.shows("#score-value", *parts, tensors["layers.0.attention.scores"][0, 0, 2, 0])
    assert seen.has_no_fault()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.filterwarnings("ignore:.*(more than 256 tokens|knows nothing of)")
def test_minibert_small_in_a_page(chromium, tmp_path):
    """200 texts, and the rules on all of Unicode; without MINIBERT_ODD=1 every twentieth text, and
    the planes that have characters."""
    encoder = SentenceEncoder.from_pretrained(engine="textbook")
    seen = open_live(chromium, tmp_path / "page.html", encoder, "minibert-small")
    lines = (CHECKOUT / "notebooks/data/intents/train.tsv").read_text(encoding="utf-8").splitlines()
    texts = [*TYPED, *(line.split("\t")[0] for line in lines[1:180]), " ".join(lines[180:220])]
    assert len(texts) == 200
    largest = max(difference(chromium, encoder, t) for t in (texts if WHOLE else texts[::20]))
    print(f"largest difference: {largest:.1e}")
    assert largest <= 1e-4
    tokenizer = encoder.tokenizer
    for first in range(0, 0x110000, 0x1000) if WHOLE else (*range(0, 0x33000, 0x1000), 0xE0000):
        characters = [chr(code) for code in range(first, first + 0x1000)]
        characters = [c for c in characters if not 0xD800 <= ord(c) < 0xE000]
        expected = []
        for c in characters:
            text = [("a", 0), (c, 1), ("b", 2)]
            for rule in tokenizer.rules:
                text = rule(text)
            expected.append(" ".join("".join(c for c, _ in word) for word in split(text)))
        rules = [rule.__name__ for rule in tokenizer.rules]
        assert chromium.execute_script(CLEANED, characters, rules) == expected
    assert seen.has_no_fault()
