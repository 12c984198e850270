# SPDX-License-Identifier: Apache-2.0
"""Templates: rendered as transformers does, and kept from harm and from endlessness."""

import concurrent.futures
import datetime
import importlib.util
import pathlib

import pytest

from alignjax import errors
from alignjax.data.chat import rendering, templates

pytest.importorskip("jinja2", reason="templates need jinja2, of the extra hf")

NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weigh",
            "description": "Weighs <things> & é",
            "parameters": {
                "type": "object",
                "properties": {"what": {"type": "string"}},
            },
        },
    }
]
CALL = {
    "type": "function",
    "id": "a1b2c3d4e",
    "function": {"name": "weigh", "arguments": {"what": "a “cat”"}},
}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


DIALOGUES = {
    "asked": [message("user", " hi <b> é \n")],
    "answered": [message("user", "hi"), message("assistant", "hello \n")],
    "long": [
        message("system", "be brief"),
        message("user", "hi"),
        message("assistant", "hello"),
        message("user", "and?\n\n"),
        message("assistant", "<think>\nhm\n</think>\n\nyes"),
    ],
    "two users": [message("user", "hi"), message("user", "again")],
    "tools": [
        message("user", "weigh it"),
        message("assistant", None, tool_calls=[CALL]),
        message("tool", "4 kg", name="weigh", tool_call_id="a1b2c3d4e"),
        message("assistant", "It has 4 kg."),
    ],
}

# One for each thing that public templates make use of.
FEATURES = {
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{{ ns.n }}:{{ m.role }};{% endfor %}"
    ),
    "neighbours": (
        "{% for m in messages %}{% if loop.previtem and loop.previtem.role == m.role %}"
        "same {% endif %}{{ m.role }}{{ '|' if not loop.last }}"
        "{{ loop.nextitem.role if loop.nextitem is defined }}{% endfor %}"
    ),
    "macro": (
        "{% macro turn(m, end='.') %}[{{ m['role'] }}]{{ m.content }}{{ end }}"
        "{% endmacro %}{% for m in messages %}{{ turn(m, end='!') }}{% endfor %}"
    ),
    "tojson": (
        "{{ tools | tojson(indent=2) }}{{ messages | tojson }}{{ '<é>' | tojson }}"
    ),
    "date": "{{ strftime_now('%d %b %Y') }}",
    "refusal": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ messages[0].content }}"
    ),
    "slices": (
        "{% set rest = messages[1:] %}{{ messages[::-1][0].role }}{{ rest | length }}"
        "{{ messages[-1]['role'][:3] }}"
    ),
    "tests": (
        "{% for m in messages %}{{ m.content is defined }}{{ m.content is string }}"
        "{{ m.tool_calls is not none }}{{ tools is mapping }}{{ m is iterable }}"
        "{% endfor %}{{ enable_thinking is defined }}"
    ),
    "filters": (
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
        "{{ messages | map(attribute='role') | join(', ') }}"
        "{{ messages[0].content | trim | upper | replace('H', 'J') }}"
        "{{ 'a' ~ 1 ~ none ~ [1, 'b'] }}{{ '%s has %d' | format('it', 2) }}"
        "{{ '{:>5}'.format(1) }}{{ messages[0].items() | list | length }}"
        "{{ dict(a=1).a }}{{ messages[0].content.split(' ')[-1].strip() }}"
    ),
    "loops": (
        "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}"
        "{% if loop.index > 3 %}{% break %}{% endif %}{{ loop.cycle('a', 'b') }}"
        "{{ m.role }}{% else %}none{% endfor %}"
    ),
    "blocks": (
        "  {% if tools %}\n    {% set x = 'y' %}\n  {% endif %}\n\n  {{- '  a\n' }}\n"
        "{%- for m in messages -%}\n   {{ m.role }}\n{% endfor %}\n{# gone #}\nend\n\n"
    ),
    "generation": (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: "
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    ),
}


def public() -> dict[str, str]:
    """The templates of public models that an installed package has."""
    found = importlib.util.find_spec("trl")
    folders = [] if found is None else found.submodule_search_locations
    paths = [p for f in folders for p in pathlib.Path(f).glob("chat_templates/*.jinja")]
    return {path.stem: path.read_text("utf-8") for path in sorted(paths)}


def own() -> dict[str, str]:
    folder = pathlib.Path(templates.__file__).parent
    return {name: (folder / f"{name}.jinja").read_text("utf-8") for name in OFFICIAL}


# The public template that each built-in one writes the same as, where TRL has it.
OFFICIAL = {"chatml": "qwen3_instruct_2507", "gemma": "gemma", "llama3": "llama3"}


def both(source, name, tools, prompt):
    """What the template writes, by transformers and by us; None where it refuses."""
    from transformers.utils import chat_template_utils

    now, texts = datetime.datetime.now(), []
    options = dict(tools=tools, **NAMES)
    tracked = rendering.tracks(source)
    try:
        (text,), spans = chat_template_utils.render_jinja_template(
            conversations=[
                [{k: v for k, v in m.items() if v is not None} for m in DIALOGUES[name]]
            ],
            chat_template=source,
            add_generation_prompt=prompt,
            return_assistant_tokens_mask=tracked,
            **options,
        )
        spans = [tuple(span) for span in spans[0]] if tracked else []
        texts.append((text, spans))
    except Exception:  # of the template, and of whatever kind
        texts.append(None)
    try:
        found = rendering.render(
            source, DIALOGUES[name], prompt=prompt, tools=tools, names=NAMES, now=now
        )
        texts.append((found.text, list(found.spans)))
    except errors.DataError:
        texts.append(None)
    return texts


@pytest.mark.parametrize("feature", FEATURES)
def test_features_are_rendered_as_transformers_does(feature):
    pytest.importorskip("transformers", reason="compares with transformers itself")
    written = set()
    for name in DIALOGUES:
        for tools in (None, TOOLS):
            for prompt in (False, True):
                theirs, ours = both(FEATURES[feature], name, tools, prompt)
                assert ours == theirs, (feature, name)
                written.add(str(ours))
    assert len(written) > (feature != "date")


def test_public_templates_are_rendered_as_transformers_does():
    pytest.importorskip("transformers", reason="compares with transformers itself")
    sources = public()
    if len(sources) < 12:
        pytest.skip("trl, of which the public templates are read, is not installed")
    rendered = 0
    for which, source in sources.items():
        for name in DIALOGUES:
            for tools in (None, TOOLS):
                for prompt in (False, True):
                    theirs, ours = both(source, name, tools, prompt)
                    assert ours == theirs, (which, name)
                    rendered += ours is not None
    assert rendered > 10 * len(sources)


@pytest.mark.parametrize("name", OFFICIAL)
def test_built_in_templates_write_what_the_official_ones_write(name):
    sources = public()
    if OFFICIAL[name] not in sources:
        pytest.skip("trl, of which the official templates are read, is not installed")
    said = 0
    for dialogue in list(DIALOGUES)[:4]:
        for prompt in (False, True):
            found = []
            for source in (own()[name], sources[OFFICIAL[name]]):
                try:
                    text = rendering.render(
                        source, DIALOGUES[dialogue], prompt=prompt, names=NAMES
                    ).text
                except errors.DataError:
                    text = None
                found.append(text)
            assert found[0] == found[1]
            said += found[0] is not None
    assert said >= 4


# What Mistral 7B Instruct v0.2 and our own tokenizers write, by their documentation.
WRITTEN = {
    "mistral": (
        "<s> [INST] be brief\n\nhi [/INST] hello</s> [INST] and?\n\n [/INST] "
        "<think>\nhm\n</think>\n\nyes</s>"
    ),
    "world": (
        "<system> be brief<end><user> hi<end><assistant> hello<end><user> and?\n\n"
        "<end><assistant> <think>\nhm\n</think>\n\nyes<end>"
    ),
    "chatml": (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nand?\n\n<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nhm\n</think>\n\nyes<|im_end|>\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nand?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        "<think>\nhm\n</think>\n\nyes<|eot_id|>"
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_built_in_templates_write_what_they_should(name):
    path = pathlib.Path(templates.__file__).with_name(f"{name}.jinja")
    found = rendering.render(path.read_text("utf-8"), DIALOGUES["long"], names=NAMES)
    assert found.text == WRITTEN[name]
    said = [found.text[start:stop].strip() for start, stop in found.spans]
    assert len(said) == 2 and said[0].startswith("hello")
    assert "yes" in said[1] and said[1].endswith((">", "|>"))


def test_a_date_is_the_same_on_any_day():
    source = "{{ strftime_now('%d %b %Y') }}"
    assert rendering.render(source, []).text == "26 Jul 2024"
    now = datetime.datetime(2026, 1, 2)
    assert rendering.render(source, [], now=now).text == "02 Jan 2026"


ENDLESS = {
    "loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "recursion": (
        "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}"
        "{% endif %}{% endfor %}"
    ),
    "macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
        "{% endmacro %}{{ f(60) }}"
    ),
    "depth": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "product": "{{ 'a' * 10 ** 10 }}",
    "product of lists": "{{ 10 ** 10 * [0] }}",
    "power": "{% set ns = namespace(x=9) %}{% for i in range(99) %}"
    "{% set ns.x = ns.x ** 9 %}{% endfor %}",
    "doubling": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "sums": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "padding": "{{ 'x' | center(10 ** 10) }}",
    "padding by a method": "{{ 'x'.ljust(10 ** 10) }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "hidden format": "{{ '{0:{1}}'.format('a', '>9999999999') }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "star": "{{ '%*d' % (10 ** 10, 1) }}",
    "replace": "{% set b = 'a' * 99999 %}{{ b.replace('', b) }}",
    "join": "{% set b = 'a' * 99999 %}{{ range(99999) | join(b) }}",
    "join of texts": "{{ (['a' * 99999] * 9999) | join }}",
    "indent": "{{ ('a\n' * 99999) | indent(99999) }}",
    "json": "{{ (['a' * 99999] * 9999) | tojson }}",
    "text of a list": "{{ ['a' * 99999] * 9999 }}",
    "words": "{{ ('a ' * 3000000) | wordwrap(1) }}",
    "a large join": "{{ ('a' * 4000) | join('b' * 4000) }}",
    "slices": "{{ [1] | slice(9999999) | list | length }}",
    "slow slices": "{{ [1] | slice(1000000) | list | length }}" * 99,
    "slow filters": "{% set b = ('a ' * 400000) | urlize %}" * 999,
    "sorts": "{% set b = ([2, 1] * 400000) | sort %}" * 999,
    "output": "{% set b = 'a' * 99999 %}{% for i in range(99999) %}{{ b }}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_templates_that_do_not_end_are_stopped(name):
    with pytest.raises(errors.DataError, match="does not end, or does too much"):
        rendering.render(ENDLESS[name], DIALOGUES["asked"])


def test_long_messages_are_written_several_times():
    long = [message("user", "word " * 10**6), message("assistant", "x")]
    source = (
        "{% for m in messages %}{{ m.content }}{{ m.content | trim | tojson }}"
        "{{ m.content.split(' ') | join('_') | upper }}{% endfor %}"
    )
    assert len(rendering.render(source, long).text) > 15 * 10**6


def test_endless_templates_are_stopped_in_threads_at_the_same_step():
    count = (
        "{% for a in range(1500) %}{% for b in range(1500) %}{% endfor %}{% endfor %}"
    )
    fine = "{% for m in messages %}{{ m.content }}{% endfor %}"

    def told(i):
        try:
            return rendering.render(fine if i % 2 else count, DIALOGUES["asked"]).text
        except errors.DataError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(told, range(8)))
    assert len(set(found)) == 2
    assert found[1] == DIALOGUES["asked"][0]["content"]
    assert "more than 1,010,208 turns" in found[0]


def test_long_dialogues_have_time_enough():
    source = (
        "{% for m in messages %}{% for n in messages %}"
        "{% if n.role == 'tool' %}x{% endif %}{% endfor %}{{ messages | length }}"
        "{% endfor %}"
    )
    many = [message("user", "a" * 99)] * 1500
    assert rendering.render(source, many).text == "1500" * 1500


ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class by attr": "{{ '' | attr('__class__') }}",
    "globals": "{{ self.__init__.__globals__ }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "change": "{{ messages.append(1) }}",
    "namespace": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "state": "{{ strftime_now.__closure__ }}",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_escapes_from_the_sandbox_are_stopped(name):
    with pytest.raises(errors.DataError, match="what none may do, and was stopped"):
        rendering.render(ESCAPES[name], DIALOGUES["asked"])


@pytest.mark.parametrize(
    "source",
    [
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ lipsum(5) }}",
        "{{ '{0.__class__.__init__.__globals__}'.format('a') | length / 0 }}",
        "{{ raise_exception('not that') }}",
        "{{ missing.field }}",
        "{{ 1 + 'a' }}",
    ],
)
def test_what_else_goes_wrong_is_an_error_of_the_data(source):
    with pytest.raises(errors.DataError, match="the template"):
        rendering.render(source, DIALOGUES["asked"])


@pytest.mark.parametrize(
    "source, reason",
    [
        ("{% if %}", "no Jinja template: line 1"),
        ("{{ 'a' | nothing }}", "No filter named 'nothing'"),
        ("{{ [1] | random }}", "No filter named 'random'"),
        ("{% generation %}", "no Jinja template"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be read"),
    ],
)
def test_what_is_no_template_is_an_error_of_the_config(source, reason):
    with pytest.raises(errors.ConfigError, match=r"data\.chat: ") as caught:
        rendering.check(source)
    assert reason in str(caught.value)


def test_generation_inside_of_a_macro_is_refused():
    source = "{% set x %}{% generation %}hi{% endgeneration %}{% endset %}said: {{ x }}"
    with pytest.raises(errors.DataError, match="inside of a macro or a set block"):
        rendering.render(source, DIALOGUES["asked"])
