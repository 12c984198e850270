# SPDX-License-Identifier: Apache-2.0
"""Templates: rendered as transformers does, and kept from harm and from endlessness."""

import datetime
import importlib.util
import pathlib

import pytest

from alignjax import errors, workers
from alignjax.data.chat import rendering, templates

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


def render(source, messages, names=None, *, prompt=False, tools=None, **options):
    dialogue = rendering.Dialogue(source, messages, prompt, tools)
    return rendering.render([dialogue], names, **options)[0]


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
    tracked = rendering.marks_replies(source)
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
        found = render(
            source, DIALOGUES[name], NAMES, prompt=prompt, tools=tools, now=now
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
                    text = render(
                        source, DIALOGUES[dialogue], NAMES, prompt=prompt
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
    found = render(path.read_text("utf-8"), DIALOGUES["long"], NAMES)
    assert found.text == WRITTEN[name]
    said = [found.text[start:stop].strip() for start, stop in found.spans]
    assert len(said) == 2 and said[0].startswith("hello")
    assert "yes" in said[1] and said[1].endswith((">", "|>"))


def test_a_date_is_the_same_on_any_day():
    source = "{{ strftime_now('%d %b %Y') }}"
    assert render(source, []).text == "26 Jul 2024"
    now = datetime.datetime(2026, 1, 2)
    assert render(source, [], now=now).text == "02 Jan 2026"


# What a worker of one second and little memory stops, and what the template is then.
ENDLESS = {
    "loops": (
        errors.ConfigError,
        "{% for a in range(9999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ),
    "a long power": (errors.ConfigError, "{{ 9 ** (9 ** 9) }}"),
    "memory": (errors.DataError, "{{ messages[0].content * 10 ** 10 }}"),
    "memory while it is read": (errors.DataError, "{{ 'a' * 10 ** 10 }}"),
    "depth": (errors.DataError, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
    "range": (errors.DataError, "{% for a in range(10 ** 9) %}{% endfor %}"),
    "output": (
        errors.ConfigError,
        "{% set b = 'a' * 99999 %}{% for i in range(2000) %}{{ b }}{% endfor %}",
    ),
}


@pytest.fixture(scope="module")
def worker():
    limits = workers.Limits(cpu_seconds=1, answer_bytes=1 << 27)
    worker = workers.Worker(rendering.WORKER.function, limits)
    yield worker
    worker.close()


@pytest.mark.parametrize("name", ENDLESS)
def test_templates_that_do_not_end_are_stopped(worker, name):
    error, source = ENDLESS[name]
    with pytest.raises(error, match=r"data\.chat|the template does too much"):
        render(source, DIALOGUES["asked"], worker=worker)
    fine = render("{{ messages[0].content }}", DIALOGUES["asked"], worker=worker)
    assert fine.text == DIALOGUES["asked"][0]["content"]


def test_long_messages_are_written_several_times():
    long = [message("user", "word " * 10**6), message("assistant", "x")]
    source = (
        "{% for m in messages %}{{ m.content }}{{ m.content | trim | tojson }}"
        "{{ m.content.split(' ') | join('_') | upper }}{% endfor %}"
    )
    assert len(render(source, long).text) > 15 * 10**6


def test_long_dialogues_have_time_enough():
    source = (
        "{% for m in messages %}{% for n in messages %}"
        "{% if n.role == 'tool' %}x{% endif %}{% endfor %}{{ messages | length }}"
        "{% endfor %}"
    )
    many = [message("user", "a" * 99)] * 1500
    assert render(source, many).text == "1500" * 1500


ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class by attr": "{{ ('' | attr('__class__')).x }}",
    "globals": "{{ self.__init__.__globals__ }}",
    "globals of a function": "{{ raise_exception.__globals__.x }}",
    "change": "{{ messages.append(1) }}",
    "date": "{{ strftime_now.__self__.x }}",
}


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", ESCAPES)
def test_escapes_from_the_sandbox_are_stopped(name, trusted):
    with pytest.raises(errors.DataError, match="what none may do, and was stopped"):
        render(ESCAPES[name], DIALOGUES["asked"], trusted=trusted)


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
        render(source, DIALOGUES["asked"])


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
        render(source, DIALOGUES["asked"])
    assert reason in str(caught.value)


def test_generation_inside_of_a_macro_is_refused():
    source = "{% set x %}{% generation %}hi{% endgeneration %}{% endset %}said: {{ x }}"
    with pytest.raises(errors.DataError, match="inside of a macro or a set block"):
        render(source, DIALOGUES["asked"])
