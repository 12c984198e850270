# SPDX-License-Identifier: Apache-2.0
"""The report: every figure with its numbers, whatever is missing, safe and alone."""

import html.parser
import json
import pathlib
import re

import pytest

from alignjax.report import __main__ as main
from alignjax.report import page, story
from alignjax.tracking import versions
from alignjax.world import gold
from tests.report import made_up

FIGURES = {
    *("stages", "slices", "frontier", "refusals", "knowledge", "length"),
    *("perplexity", "accuracy", "reliability", "by_length", "losses", "drift"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    named = made_up.runs(tmp_path_factory.mktemp("report"))
    return [tuple(name.split("=", 1)) for name in named]


@pytest.fixture(scope="module")
def whole(folders):
    return page.render(story.load(folders, made_up.measured()))


class Reader(html.parser.HTMLParser):
    """Collects ids and attributes, and checks that what opens closes."""

    EMPTY = frozenset({"meta", "br", "path", "use", "rect", "circle"})

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.used, self.tags, self.links = [], [], [], set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.links.append(value)
            self.used += re.findall(r"url\(#([^)]+)\)", value or "")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()


def figure(text, name):
    (found,) = re.findall(rf'<figure id="{name}">.*?</figure>', text, re.DOTALL)
    return found


def test_every_figure_is_there_with_title_caption_and_numbers(whole):
    assert set(re.findall(r'<figure id="(\w+)">', whole)) == FIGURES
    for name in FIGURES:
        found = figure(whole, name)
        assert re.search(r"<h3 [^>]*>[A-Z].*\?</h3>", found)
        caption = re.search(r"<figcaption>(.+?)</figcaption>", found, re.DOTALL)[1]
        assert re.search(r"\d", caption) and caption.endswith(".")
        assert found.count("<tr>") >= 2
        assert "<svg" in found and "<text" in found
    assert "Missing" not in whole and "Not shown" not in whole


def test_the_figures_say_what_was_measured(whole):
    found = made_up.measured()
    models = found["models"]
    gold = lambda name, view: f"{models[name]['sampled']['gold'][view]['mean']:.2f}"
    for name in made_up.STAGES:
        for view in ("seen", "unfamiliar"):
            drawn = figure(whole, "stages").split("<figcaption>")[0]
            assert f">{gold(name, view)}</text>" in drawn.replace("\u2212", "-")
        assert gold(name, "nine") in whole
        assert f"{models[name]['documents']['mean']:.3f}" in figure(whole, "perplexity")
        for sliced in models[name]["sampled"]["slices"].values():
            mean = f"{sliced['gold']['mean']:.2f}"
            assert mean in figure(whole, "slices") or sliced["count"] == 12
        share = models[name]["sampled"]["rates"]["border_refusal"]["mean"]
        assert f"{100 * share:.0f}\u00a0%" in figure(whole, "refusals")
    assert "0.38 [0.33, 0.43]" in figure(whole, "frontier")
    assert "\u03b2 = 0.125" in figure(whole, "frontier")
    assert "+0.27" in figure(whole, "by_length")
    assert "64\u00a0%" in figure(whole, "by_length")
    judged = found["rewards"]["reward"]["splits"]["preferences"]
    assert f"{judged['ece']:.3f}" in figure(whole, "reliability")
    assert f"{judged['accuracy']['mean']:.2f}" in figure(whole, "accuracy")
    assert "2.00 to 1.00" in figure(whole, "losses")
    assert "1.125" in figure(whole, "losses")
    assert "likelihood displacement" in figure(whole, "drift")
    assert "-2.90" in figure(whole, "drift") or "-2.9" in figure(whole, "drift")


def test_samples_are_side_by_side(whole):
    samples = whole.split("The same prompts, answered by each model")[1]
    assert samples.count('<div class="sample">') == 10
    assert samples.count('<div class="answer"') == 30
    assert samples.count("border; best: right") == 1


def test_the_page_stands_alone_and_is_sound(whole):
    found = Reader(whole)
    assert {"script", "link", "img", "iframe"}.isdisjoint(found.tags)
    assert all(link.startswith("#") for link in found.links)
    assert len(found.ids) == len(set(found.ids))
    assert {*found.used, *(link[1:] for link in found.links)} <= set(found.ids)
    assert "@import" not in whole and "url(http" not in whole


def test_the_page_tells_how_it_was_made(folders, whole):
    provenance = page.provenance()
    assert re.match(
        r"\d{4}-\d\d-\d\d by alignjax [\d.]+(, commit [0-9a-f]{10}|, jax)", provenance
    )
    for name in ("jax", "flax", "Python"):
        assert re.search(rf"{name} \d+\.\d", provenance)
    assert versions.commit_of(pathlib.Path("/no/such/checkout")) == ""
    text = page.render(story.load(folders, made_up.measured()), provenance=provenance)
    assert f"Made on {provenance}." in text and "Made on" not in whole
    runs = text.split("<h2>The runs</h2>")[1].split("</table>")[0]
    for cell in ("2001-09-09", "0.0003", "16", "320", "30", "1,200 pairs"):
        assert f"<td>{cell}</td>" in runs
    assert "saved with" not in runs  # of which there is nothing
    assert page._day(1e300) == page._day(float("nan")) == page._day(None) == "–"


def test_no_column_is_empty_and_every_tag_is_explained(whole):
    assert "KL, nats" in whole
    found = made_up.measured()
    for name in ("dpo", "sft"):
        del found["models"][name]
    found["changes"] = []
    assert '<th scope="col">KL, nats' not in page.render(story.Story([], found))
    tags = re.findall(r'<span class="tag">(\w+)</span>', whole)
    assert set(tags) <= set(page.TAGS) == set(gold.TAGS)
    for tag, meaning in page.TAGS.items():
        assert f'<span class="tag">{tag}</span> {meaning}' in whole


def test_the_page_fits_a_phone(whole):
    """No width of its own is more than what 420 pixels leave beside the margins."""
    style = whole.split("<style>")[1].split("</style>")[0]
    for rule in re.findall(r"[^{}]+\{[^{}]*\}", style):
        for size in re.findall(r"(?:^|[^-])(?:width|basis|1 1)[: ]+([^;}]*)", rule):
            assert "rem" not in size or "min(100%" in size, rule
    for table in re.findall(r".{20}<table>", whole):
        assert table.endswith('<div class="scroll"><table>')
    assert "overflow-x: auto" in style and "overflow-wrap: anywhere" in style
    assert not re.search(r"<svg[^>]* width=", whole)


def test_the_same_story_gives_the_same_page(whole, folders):
    assert page.render(story.load(folders, made_up.measured())) == whole


def test_whatever_models_say_is_only_text():
    found = made_up.measured()
    evil = '<script>alert("1")</script><b>&amp;\x00'
    for answer in found["models"]["sft"]["sampled"]["answers"]:
        answer["text"] = evil
    name = '<i>"x"</i> $\\frac{a$ &'
    found["models"] = {
        (name if key == "dpo" else key): m for key, m in found["models"].items()
    }
    found["changes"][1]["to"] = name
    text = page.render(story.Story([], found), title="</title><script>")
    tags = Reader(text).tags
    assert {"script", "b", "i"}.isdisjoint(tags)
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;&lt;b&gt;&amp;amp;" in text
    assert "\x00" not in text


def test_a_story_without_its_end_says_so(folders):
    found = made_up.measured()
    del found["models"]["dpo"]
    found["changes"].pop()
    told = story.load([f for f in folders if f[0] != "dpo"], found)
    text = page.render(told)
    Reader(text)
    assert "Missing: preference, which learns to answer as people prefer" in text
    assert "Missing: sft" not in text
    assert "no preference model was assessed against its reference" in text
    assert "stages" in re.findall(r'<figure id="(\w+)">', text)
    assert 'id="drift"' not in text


def test_training_alone_and_measuring_alone(folders):
    trained = page.render(story.load(folders, None))
    assert set(re.findall(r'<figure id="(\w+)">', trained)) == {"losses", "drift"}
    assert "no reward model was assessed" in trained
    measured = page.render(story.load([], made_up.measured()))
    assert set(re.findall(r'<figure id="(\w+)">', measured)) == FIGURES - {
        *("losses", "drift")
    }
    assert measured.count("its folder was not given") == 4


def test_one_model_alone():
    found = made_up.measured()
    found["models"] = {"base": found["models"]["base"]}
    found |= {"changes": [], "rewards": {}}
    Reader(page.render(story.Story([], found)))


def test_stages_are_told_in_the_order_in_which_they_ran(folders):
    told = story.load(folders, made_up.measured())
    assert told.order == ["base", "sft", "reward", "dpo"]
    assert [stage.kind for stage in told.stages] == list(story.KINDS)


def test_the_command(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "deep" / "report.html"
    stages = [f"--stage={name}={folder}" for name, folder in folders]
    assert main.main(["--out=~/deep/report.html", *stages]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert "the report" in capsys.readouterr().out
    (tmp_path / "cut.json").write_text('{"format": 1}')
    cut = made_up.measured()
    del cut["models"]["sft"]["sampled"]["gold"]
    (tmp_path / "less.json").write_text(json.dumps(cut))
    odd = made_up.measured()
    odd["models"]["sft"] = 3
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    odd = made_up.measured()
    odd["models"]["sft"]["documents"]["mean"] = "much"
    (tmp_path / "text.json").write_text(json.dumps(odd))
    other = made_up.measured() | {"world": {"preset": "nano"}}
    (tmp_path / "world.json").write_text(json.dumps(other))
    for bad, message in (
        ([], "give --stage"),
        ([f"--out={tmp_path}", *stages], f"out: {tmp_path} is a folder"),
        ([f"--assessment={tmp_path / 'cut.json'}"], "results without world"),
        ([f"--assessment={tmp_path / 'less.json'}"], "less.json lacks what assess"),
        ([f"--assessment={tmp_path / 'odd.json'}"], "results without models.sft.path"),
        ([f"--assessment={tmp_path / 'text.json'}"], "text.json lacks what assess"),
        ([f"--assessment={tmp_path / 'world.json'}"], "world.json lacks what assess"),
        (["--stage=a=/no/such"], "stage a"),
        (["--assessment=/no/such"], "/no/such"),
        (["--assessment=~/no_such"], f"{tmp_path}/no_such"),
        (["--stage=a=~/no_such"], f"{tmp_path}/no_such"),
        ([*stages, stages[0]], "stage base: given twice"),
        (["--out=", *stages], "out: empty; name a file"),
    ):
        named = [] if any(x.startswith("--out=") for x in bad) else [f"--out={out}"]
        assert main.main([*named, *bad]) == 78
        assert message in capsys.readouterr().err
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: None)
    assert main.main([f"--out={out}", *stages]) == 78
    assert "alignjax[report]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        b"3",
        b"null",
        b"{}",
        b"[1]",
        b'{"step": 2, "loss": [1]}',
        b'{"step": 2, "loss": "high"}',
        b'{"step": 2, "loss": null}',
        b'{"step": "2"}',
        b'{"step": 2.5, "loss": 1}',
        b'{"step": 2, "loss": 1',
        b'{"step": 2, "loss": \xff}',
        b"{" * 5000,
        b'{"step": 2, "loss": ' + b"9" * 5000 + b"}",
        b'{"step": 2, "loss": ' + b"9" * 400 + b"}",
        b"",
    ],
)
def test_damaged_metrics_are_one_message(line, tmp_path, capsys):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text('{"model": {}}')
    metrics = workdir / "metrics.jsonl"
    metrics.write_bytes(b'{"step": 0, "loss": "NaN"}\n' + line + b"\n")
    out = tmp_path / "report.html"
    assert main.main([f"--out={out}", f"--stage=a={workdir}"]) == 78
    (message,) = capsys.readouterr().err.splitlines()
    assert f"stage a: {metrics}:2" in message and len(message) < 400
    assert not out.exists()
    metrics.write_bytes(b'{"step": 0, "loss": "NaN"}\n{"step": 1')  # still writing
    assert main.main([f"--out={out}", f"--stage=a={workdir}"]) == 0


def test_metrics_that_no_axis_holds_are_refused(tmp_path, capsys):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text('{"model": {}}')
    rows = [{"step": i, "loss": x} for i, x in enumerate([1e308, -1e308])]
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    out = tmp_path / "report.html"
    assert main.main([f"--out={out}", f"--stage=a={workdir}"]) == 78
    assert "stage: " in capsys.readouterr().err and not out.exists()
