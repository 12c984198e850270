# SPDX-License-Identifier: Apache-2.0
"""What layers say, and what two runs say of the tokens of a text."""

import functools
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest
from scipy import special

from alignjax import analysis, cli, errors
from alignjax.analysis import lens, token_page

RUNS = pathlib.Path(__file__).resolve().parents[1] / "golden" / "runs"
TOKENS = [72, 101, 108, 108]
EVIL = '<script>alert(1)</script> & "no".'


@functools.cache
def run(name: str) -> analysis.Run:
    return analysis.open_run(RUNS / name)


@pytest.mark.parametrize("name", ["sft", "sentencepiece"])
def test_the_last_layers_lens_is_the_logits(name):
    logits = run(name).logits(TOKENS)
    every = run(name).logit_lens(TOKENS)
    c = run(name).model.config
    assert every.shape == (c.layers + 1, len(TOKENS), c.vocab_size)
    np.testing.assert_array_equal(every[-1], logits)
    assert np.abs(every[-2] - logits).max() > 0.1
    two = run(name).logit_lens([TOKENS, TOKENS])
    np.testing.assert_allclose(two[:, 1], every, atol=1e-5)


def test_the_lens_is_the_last_norm_and_the_unembedding():
    params, c = run("sft").params(), run("sft").model.config
    x_TD = run("sft").hidden(TOKENS, every_layer=True)[1]
    rms = np.sqrt((x_TD**2).mean(-1, keepdims=True) + c.norm_epsilon)
    head_DV = params["embed"].T if c.tied else params["head"]
    expected = (x_TD / rms * params["norm"]["scale"]) @ head_DV
    np.testing.assert_allclose(run("sft").logit_lens(TOKENS)[1], expected, atol=1e-4)


def test_rows_of_the_lens():
    rows = list(lens.rows(run("sft"), "hi"))
    ids = run("sft").tokenize("hi")
    assert len(rows) == len(ids) * 3
    logps_LTV = special.log_softmax(run("sft").logit_lens(ids), -1)
    row = rows[3 + 1]  # the second token, the first layer
    assert row["logp"] == pytest.approx(float(logps_LTV[1, 1, ids[2]]), abs=1e-5)
    assert row["rank"] == 1 + (logps_LTV[1, 1] > logps_LTV[1, 1, ids[2]]).sum()
    assert rows[2]["kl"] == 0 < rows[0]["kl"]
    assert rows[-1]["logp"] is None and rows[-1]["rank"] is None


def test_tokens_have_the_log_probs_of_both_runs():
    row = run("sft").score(["hi"], ["no."], plain=True)[0]
    other = run("dpo").score(["hi"], ["no."], plain=True)[0]
    text = token_page.compare(run("sft"), run("dpo"), "x", row.prompt_ids, row.ids)
    response = text.scored()
    assert len(response) == len(row.ids)
    np.testing.assert_allclose([t.first for t in response], row.logprobs, atol=1e-5)
    np.testing.assert_allclose([t.second for t in response], other.logprobs, atol=1e-5)
    same = token_page.compare(run("sft"), run("sft"), "x", row.prompt_ids, row.ids)
    assert same.mean == 0 and all(t.kl == 0 == t.change for t in same.scored())


def test_a_text_longer_than_the_context_is_cut_into_windows():
    window = run("sft").model.config.max_length
    ids = [1 + i % 90 for i in range(window + 3)]
    text = token_page.compare(run("sft"), run("dpo"), "x", ids[:1], ids[1:])
    unpredicted = [i for i, token in enumerate(text.tokens) if token.change is None]
    assert len(text.tokens) == len(ids) and unpredicted == [0, window]
    again = run("sft").logits(ids[window:])
    expected = special.log_softmax(again[0])[ids[window + 1]]
    assert text.tokens[window + 1].first == pytest.approx(expected, abs=1e-5)


class Page(html.parser.HTMLParser):
    """The text of a page, its tags, and its classes with their number."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.tags, self.classes = "", set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.classes += (dict(attributes).get("class") or "").split()

    def handle_data(self, data):
        self.text += data


def test_the_page_of_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(RUNS.parents[2])
    data, out = tmp_path / "rows.jsonl", tmp_path / "page.html"
    rows = [{"prompt": "hi", "response": EVIL}, {"prompt": "a", "response": "b"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sides = [str(RUNS / "sft"), str(RUNS / "dpo")]
    options = [f"--data={data}", f"--text={EVIL}", "--most=1", f"--out={out}"]
    assert cli.main(["inspect", "tokens", *sides, *options]) == 0
    page = Page(text := out.read_text())
    assert page.tags.isdisjoint({"script", "link", "img", "iframe"})
    assert page.text.count(EVIL) == 2 and "rows.jsonl:1" in page.text
    assert "rows.jsonl:2" not in page.text
    levels = {name for name in page.classes if re.fullmatch("(up|down)[1-4]", name)}
    assert len(levels) == 8  # those of the legend
    assert "prefers-color-scheme: dark" in text and "http" not in text


def test_what_cannot_be_compared_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(RUNS.parents[2])
    sides = [str(RUNS / "sft"), str(RUNS / "sentencepiece")]
    out = f"--out={tmp_path / 'page.html'}"
    command = ["inspect", "tokens", *sides, out]
    assert cli.main([*command, "--text=a"]) == errors.CONFIG
    assert "tokenizer" in capsys.readouterr().err
    assert cli.main([*command[:3], sides[0], out]) == errors.CONFIG
    assert "--text" in capsys.readouterr().err
    same = [*command[:3], sides[0], out]
    (tmp_path / "rows.jsonl").write_text('{"text": "abc"}\n')
    data = f"--data={tmp_path / 'rows.jsonl'}"
    for options, field in (
        ([data, "--most=-1"], "most"),
        ([data, f"--most={10**30}"], "most"),
        (["--text=\ud800"], "Unicode"),
    ):
        assert cli.main([*same, *options]) == errors.CONFIG
        assert field in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_can_be_read(mode):
    """WCAG 2.2's contrast of 4.5 between the ink and each colour."""
    style = (
        pathlib.Path(token_page.__file__).parent / "token_page.html.jinja"
    ).read_text()
    light, dark = style.split("@media")[:2]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]+)", light))
    if mode == "dark":
        colours |= dict(re.findall(r"--(\w+): (#[0-9a-f]+)", dark))

    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
        rgb = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [
            x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in rgb
        ]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    def contrast(a, b):
        low, high = sorted(map(luminance, (colours[a], colours[b])))
        return (high + 0.05) / (low + 0.05)

    grounds = ["page", *(f"{way}{i}" for way in ("up", "down") for i in (1, 2, 3, 4))]
    assert {
        name: contrast("ink", name) for name in grounds if contrast("ink", name) < 4.5
    } == {}
    assert contrast("faint", "page") > 4.5
