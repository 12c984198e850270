# SPDX-License-Identifier: Apache-2.0
"""A planned step is the one that trains, of each objective; and what plans refuse."""

import argparse
import json

import jax
import pytest

from alignjax import config, errors, types
from alignjax.experiment import build
from alignjax.models import decoder
from alignjax.plan import __main__ as command
from alignjax.plan import cards, memory, outcome, program, search, step, topology
from configs.rl import world
from tests import test_golden_runs as golden
from tests.rollouts import small

DPO = str(golden.ROOT / "configs/smoke/dpo.py")
PRETRAIN = str(golden.ROOT / "configs/smoke/pretrain.py")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(golden.ROOT)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


def here(count: int = 8, **changes) -> topology.Topology:
    """The devices of this machine as if they were a card's."""
    card = cards.find("h200")._replace(**changes)
    return topology.Topology("here", card, jax.devices()[:count], {})


@pytest.mark.parametrize(
    "name", ["language_model", "sft", "dpo", "kto", "reward_model"]
)
def test_the_batch_is_as_that_of_the_data(name, scratch):
    section = golden.section(name, scratch)
    run = build.build(section)
    batch = types.batch(run.train.rows(range(run.config.batch_size)))
    planned = step.plan(section, jax.devices())
    state, frozen, planned_batch, _ = planned.arguments
    spec = lambda tree: jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
    sequences = getattr(batch, "sequences", batch)
    assert spec(getattr(planned_batch, "sequences", planned_batch)) == spec(sequences)
    assert planned.tokens == sequences.inputs.size
    if batch is not sequences:
        rank = lambda tree: jax.tree.map(lambda x: (x.ndim, str(x.dtype)), tree)
        assert planned_batch.values.keys() <= batch.values.keys()
        values = {key: batch.values[key] for key in planned_batch.values}
        assert rank(planned_batch) == rank(batch.replace(values=values))
    assert spec(state) == spec(run.weights.abstract)
    assert spec(frozen) == spec(run.weights.frozen())


def test_the_figures_of_a_step(scratch):
    """On the devices of this machine, which compile it as well as any."""
    changes = {"microbatches": 1, "mesh": {"data": 2, "fsdp": 2, "tensor": 2}}
    section = golden.section("dpo", scratch, **changes)
    planned = step.plan(section, jax.devices())
    figures = outcome.measure(planned, step.compile(planned, {}), here())
    assert figures["fits"]
    assert {"all-reduce", "all-gather"} <= {x["opcode"] for x in figures["collectives"]}
    axes = {x["axes"] for x in figures["collectives"]}
    names = {"data", "fsdp", "tensor", "data+fsdp", "data+fsdp+tensor", "pairs"}
    assert {"tensor", "data+fsdp"} <= axes <= names, axes
    flops = figures["flops"]
    # The reference's forward pass is a third more; chunks recompute the head.
    assert 1.2 < flops["counted"] / flops["analytic"] < 2.5
    assert figures["memory"]["reference"] == figures["memory"]["parameters"]
    assert figures["predicted"]["step_s"] > 0
    assert "it fits" in outcome.page(figures)


def test_a_reference_that_the_policy_starts_from_shares_what_is_not_trained(scratch):
    section = golden.section("lora", scratch)
    section["objective"] = {"name": "preference", "loss": "dpo"}
    planned = step.plan(section, jax.devices()[:1])
    kinds = memory.of_arguments(planned)
    assert kinds["reference"] == kinds["parameters"]  # its own adapters alone


@pytest.mark.parametrize(("size", "remat"), [(10**12, "none"), (0, "full")])
def test_the_memory_of_a_card_decides_what_is_kept(size, remat, scratch):
    section = golden.section("dpo", scratch)
    planned = step.plan(section, jax.devices(), device_bytes=size)
    assert planned.run.model.config.remat == remat
    assert f"remat {remat}" in planned.notes[-1]
    assert "logits of 1,024 tokens at a time" in planned.notes[-1]
    section["model"] |= {"remat": "dots", "unroll": 2}
    section["objective"] |= {"chunk": 77}
    planned = step.plan(section, jax.devices(), device_bytes=size)
    assert planned.run.model.config.remat == "dots"
    assert "2 layers, unrolled; remat dots; logits of 77 tokens" in planned.notes[-1]


def test_search_takes_the_fewest_microbatches_that_fit(scratch, monkeypatch):
    """Here two need a third of the memory of one; each costs a second, and remat a
    tenth."""
    section = golden.section("language_model", scratch)

    def measure(planned, *_):
        c, remat = planned.run.config, planned.run.model.config.remat
        size = 10 * 2**30 if c.microbatches < 2 and remat == "none" else 2**30
        seconds = c.microbatches + 0.1 * (remat != "none")
        predicted = {"step_s": seconds, "tokens_per_second": 1 / seconds, "mfu": 0.5}
        fits = size < 2**31
        return {"fits": fits, "memory": {"total": size}, "predicted": predicted}

    monkeypatch.setattr(step, "compile", lambda *_: None)
    monkeypatch.setattr(outcome, "measure", measure)
    lines = []
    rows = search.run(section, here(2), {}, lines.append)
    assert len(lines) == len(rows) == 10  # 2 meshes, 4 policies and one more try each
    best = [(row["mesh"]["fsdp"], row["remat"], row["microbatches"]) for row in rows]
    assert {remat for _, remat, count in best[:6] if count == 1} == set(
        decoder.REMAT_POLICIES
    ) - {"none"}
    assert {x[1:] for x in best[6:8]} == {("none", 2)}
    assert not rows[8]["fits"] and not rows[9]["fits"]


def test_search_compiles_nothing_that_its_arguments_fill(scratch, monkeypatch):
    section = golden.section("language_model", scratch)
    monkeypatch.setattr(step, "compile", lambda *_: pytest.fail("compiled"))
    assert search.run(section, here(1, memory=1 << 10), {}, lambda _: None) == []


def test_search_goes_on_where_a_compiler_refuses(scratch, monkeypatch):
    section = golden.section("language_model", scratch)
    planned = step.plan(section, jax.devices()[:1])

    def refuse(**_):
        raise RuntimeError("RESOURCE_EXHAUSTED: 20 GiB of 16")

    lowered = argparse.Namespace(compile=refuse)
    jitted = argparse.Namespace(lower=lambda *_: lowered)
    monkeypatch.setattr(step.running, "train_step", lambda _: jitted)
    with pytest.raises(errors.ConfigError, match=r"^batch_size: "):
        step.compile(planned, {})
    lines = []
    assert search.run(section, here(1), {}, lines.append) == []
    tried = [line for line in lines if "x8" in line]
    assert len(tried) == len(decoder.REMAT_POLICIES)


def problems(*arguments: str) -> list[str]:
    with pytest.raises(errors.ConfigError) as error:
        command.run(arguments)
    return error.value.problems


NO_HARDWARE = ("h20", "h200:9", "h100:0", "h100:" + "9" * 5000, "v5e:3", "v5e:-1", "")


@pytest.mark.parametrize("name", NO_HARDWARE, ids=range(len(NO_HARDWARE)))
def test_an_unknown_topology_is_refused_with_the_known(name):
    (problem,) = problems(f"--config={PRETRAIN}", f"--topology={name}")
    assert problem.startswith("topology:")
    known = "1, 4, 8" if name.startswith("v5e") else "7, 8"
    assert ("known:" if name in ("h20", "") else known) in problem


def test_a_compiler_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(topology, "_version", lambda _: None)
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda _: None)
    for name, package in {"h200": "alignjax[plan]", "v5e:8": "alignjax[tpu]"}.items():
        (problem,) = problems(f"--config={PRETRAIN}", f"--topology={name}")
        assert problem.startswith("topology:") and package in problem


def test_too_little_memory_ends_in_what_to_change(monkeypatch, capsys):
    monkeypatch.setattr(topology, "find", lambda _: here(1, memory=1 << 20))
    arguments = [f"--config={PRETRAIN}", "--topology=h200", "--json"]
    (problem,) = problems(*arguments)
    assert problem.startswith("batch_size:") and "microbatches" in problem
    assert not json.loads(capsys.readouterr().out)["fits"]


def test_a_run_that_is_not_here_is_planned_by_its_model(monkeypatch, capsys):
    monkeypatch.setattr(topology, "find", lambda _: here(1))
    flags = [f"--config={DPO}", "--topology=h200", "--config.init.run=hf:no/where"]
    first, *more = problems(*flags)
    assert first.startswith("init.run:") and "model.family" in more[0]
    model = dict(family="llama", name="nano", d_model=32, layers=2, heads=2, d_ff=64)
    model["max_length"] = 512
    flags += [f"--config.model.{key}={value}" for key, value in model.items()]
    (problem,) = problems(*flags)
    assert problem.startswith("model.vocab_size:")
    assert command.run([*flags, "--vocab=300", "--json"]) == errors.DONE
    figures = json.loads(capsys.readouterr().out)
    assert figures["notes"] and figures["memory"]["reference"] > 0


def absent_rl(**rewards):
    """The section of a policy that learns from a reward model; nothing of it is here.

    `rewards` are changes of that of the model.
    """
    c = config.to_json(world.get_config())
    c["init"]["run"] = "no/where"
    c["model"] |= dict(family="llama", name="nano", vocab_size=512)
    c["rollouts"]["rewards"]["model"] |= {"run": "no/where/else", **rewards}
    return c


def test_a_policy_is_planned_without_its_reward_model():
    planned = step.plan(absent_rl(), jax.devices())
    names = [(named.name, named.weight) for named in planned.run.rewards]
    assert names == [("gold", 0.0), ("model", 1.0)]
    assert [note.partition(":")[0] for note in planned.notes] == [
        "init.run",
        "rollouts.rewards.model",
    ]
    judged = absent_rl(kind="judge", judge="reward:no/where/else", run=None)
    run = build.check(judged, absent=True)
    assert [named.among for named in run.rewards] == [False, True]
    here = absent_rl() | {"init": {"run": str(small.RUNS / "sft")}, "model": {}}
    with pytest.raises(errors.ConfigError, match=r"rewards\.model\.run: "):
        build.check(here)  # to train, it is needed


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (dict(stepp=3), "rollouts.rewards.model.stepp: unknown field"),
        (dict(run=None), "rollouts.rewards.model.run: required"),
        (dict(mean="high"), "rollouts.rewards.model.mean: "),
        (dict(weight=0.0), "rollouts.rewards: name at least one"),
        (dict(kind="runn"), "rollouts.rewards.model.kind: unknown"),
        (dict(kind="judge"), "rollouts.rewards.model.run: unknown field"),
    ],
)
def test_a_plan_checks_the_options_of_an_absent_reward_model(options, problem):
    with pytest.raises(errors.ConfigError) as error:
        build.check(absent_rl(**options), absent=True)
    assert any(text.startswith(problem) for text in error.value.problems)


def test_the_program_can_be_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(topology, "find", lambda _: here(1))
    path = tmp_path / "new" / "step.txt.gz"
    flags = [f"--config={PRETRAIN}", "--topology=h200", f"--text={path}"]
    assert command.run(flags) == errors.DONE
    page = capsys.readouterr().out
    assert "products of layers" in page and "predicted:" in page
    assert program.parse(program.read(path)).entry


class Hidden:
    """A compiled step whose compiler shows no program, as some of TPUs' do."""

    def memory_analysis(self):
        names = "output", "alias", "temp", "generated_code"
        return argparse.Namespace(**{f"{n}_size_in_bytes": 1 << 20 for n in names})

    def as_text(self):
        raise RuntimeError("INTERNAL: RET_CHECK")


def test_without_a_program_memory_alone_is_known(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(topology, "find", lambda _: here(1))
    monkeypatch.setattr(step, "compile", lambda *_: Hidden())
    flags = [f"--config={PRETRAIN}", "--topology=v5p"]
    assert command.run(flags) == errors.DONE
    page = capsys.readouterr().out
    assert "it fits" in page and "temporaries" in page and "predicted" not in page
    (problem,) = problems(*flags, f"--text={tmp_path / 'program.txt'}")
    assert problem.startswith("text:")
    assert command.run([*flags, "--search", "--json"]) == errors.DONE
    rows = json.loads(capsys.readouterr().out)
    assert [row["remat"] for row in rows] == list(decoder.REMAT_POLICIES)


def test_bad_numbers_are_refused():
    for flag in ("--vocab=0", "--responses=0"):
        with pytest.raises(SystemExit) as error:
            command.run([f"--config={PRETRAIN}", "--topology=h200", flag])
        assert error.value.code == errors.CONFIG


@pytest.mark.parametrize("shared", [False, True], ids=["padded", "shared"])
def test_a_step_on_drawn_responses(shared, tmp_path):
    """Its batch has the shapes of the longest rollout, and the step compiles."""
    section = small.ppo(tmp_path, data__share_prompt=shared)
    planned = step.plan(section, jax.devices())
    row = 200 - 12 - 1 + 12 * (4 if shared else 1)
    assert planned.tokens == 8 * row * (1 if shared else 4)
    assert step.compile(planned, {}).memory_analysis().temp_size_in_bytes > 0
