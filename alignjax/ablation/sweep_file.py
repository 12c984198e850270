# SPDX-License-Identifier: Apache-2.0
"""A sweep's file: its arms and seeds become runs, each named by its resolved config.

    from alignjax.ablation import settings

    def get_sweep():
        losses = settings.grid({"objective.loss": ["dpo", "ipo"]})
        return dict(config="configs/dpo/world.py", arms=losses, seeds=5)

A run's identity is the digest of its config without what does not change its
parameters, and with digests of what its paths name. All arms start from one run and
read one order of the same data, unless the file says what else varies.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import bounds, config, errors, models, objectives
from alignjax.ablation import claim
from alignjax.ablation.settings import Setting
from alignjax.checkpoint import resume
from alignjax.data import loader
from alignjax.experiment import build, config_file, schema, sections
from alignjax.storage import json_files

# What arms may differ in; anything else is held equal unless `varies` names it.
FREE = ("objective", "optimizer", "schedule", "reference", "steps", "batch_size")
FREE += ("microbatches", "trainable")
NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,59}")
# Responses of a group of data, where all groups have as many.
RESPONSES = {"pairs": 2, "labels": 1, "ratings": 1}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `get_sweep` of a sweep's file returns.

    Attributes:
      arms: settings, `{field: value}` each, see `ablation.settings`; None leaves a
        field as the config has it, and `name` is the arm's own.
      config: the base of all arms, `FILE[:ARGUMENT]`; None is `get_config` of this
        file.
      fields: of the config, for all arms; flags go before them.
      seeds: how many runs an arm has, or their seeds.
      varies: sections of the config in which arms may differ although a comparison
        needs them equal, such as "data".
      prompts: of each slice of the embedded world, which every run answers; 0 for none.
      checkpoints: of each run that answer too, for curves of reward over divergence.
      claim: what is to be shown, written down before the first run begins.
    """

    arms: tuple[dict, ...]
    config: str | None = None
    fields: dict = dataclasses.field(default_factory=dict)
    seeds: bounds.Many | tuple[sections.Seed, ...] = 2
    varies: tuple[str, ...] = ()
    prompts: bounds.CountOrZero = 32
    checkpoints: bounds.Count = 2
    claim: claim.Claim | None = None


class PlannedRun(NamedTuple):
    """A run of an arm.

    Attributes:
      folder: its name in the sweep's folder, `ARM_SEED-DIGEST`.
      arm, seed: which one it is.
      flags: pairs of a field and a text, beyond the base config.
      section: the config that it trains with, JSON.
      digest: of the resolved config.
    """

    folder: str
    arm: str
    seed: int
    flags: tuple[tuple[str, str], ...]
    section: dict[str, Any]
    digest: str

    @property
    def steps(self) -> int:
        return self.section["steps"]


class Plan(NamedTuple):
    """All runs of a sweep.

    Attributes:
      sweep: as the file has it.
      config: the base config's file, as a flag names it.
      runs: seed by seed, so that half a sweep has all arms.
      arms: names, the baseline first.
      settings: of each arm.
      start: path and step of the run that all arms start from; None where there is
        none, or arms start from several.
      shared: a digest of what all arms share; a folder holds one.
      notes: lines on what was set for an arm beyond its own settings.
    """

    sweep: Sweep
    config: str
    runs: list[PlannedRun]
    arms: list[str]
    settings: dict[str, Setting]
    start: tuple[str, int] | None
    shared: str
    notes: list[str]


def load(
    path: str, flags: Sequence[tuple[str, str]] = (), *, network: bool = False
) -> Plan:
    """The runs of a sweep's file.

    Args:
      flags: pairs of a field and a text, for all arms, before the file's `fields`.
      network: whether runs that configs name may be fetched.

    Raises:
      ConfigError: a file without the function, unknown fields, arms that are the same,
        or that differ in what a comparison holds equal.
      DataError: data that is not there.
    """
    fields = config_file.load(path, "get_sweep", "sweep")
    with config.errors_at("sweep"):
        sweep = config.build(Sweep, config.to_json(fields), "")
        arms = _arms(sweep, dict(flags))
    base = sweep.config or path
    section = config_file.load(base)
    common = {name: _text(value) for name, value in sweep.fields.items()}
    common |= dict(flags)
    seeds = sweep.seeds
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise errors.ConfigError(f"sweep.seeds: {list(seeds)}; name one or more, once")
    checked, notes = {}, []
    for name, setting in arms.items():
        own = {k: _text(x) for k, x in setting.items() if x is not None}
        with config.errors_at(f"arms.{name}"):
            arm, of_arm = _check(section, common | own, seeds[0], network)
        checked[name] = arm
        notes += [f"{name}: {note}" for note in of_arm]
    _equal_responses(checked, arms, notes, network)
    identities = {name: _identity(arm.experiment) for name, arm in checked.items()}
    _check_held(identities, sweep.varies)
    runs = []
    for seed in seeds:
        for name, arm in checked.items():
            digest = json_files.digest(identities[name] | {"seed": seed})
            flags_of_run = (*arm.flags.items(), ("seed", str(seed)))
            own = {**arm.section, "seed": seed}
            folder = f"{name}_{seed}-{digest[:8]}"
            runs.append(PlannedRun(folder, name, seed, flags_of_run, own, digest))
    _check_distinct(runs)
    starts = {_start(arm.experiment) for arm in checked.values()}
    return Plan(
        sweep=sweep,
        config=base,
        runs=runs,
        arms=list(arms),
        settings=arms,
        start=starts.pop() if len(starts) == 1 else None,
        shared=json_files.digest(_held(identities[next(iter(arms))], sweep.varies)),
        notes=notes,
    )


def command(
    plan: Plan, run: PlannedRun, workdir: pathlib.Path, network: bool = False
) -> list[str]:
    """The command that trains a run alone."""
    words = ["alignjax", "train", f"--config={plan.config}", f"--workdir={workdir}"]
    words += ["--network"] if network else []
    return words + [f"--config.{name}={text}" for name, text in run.flags]


class _Checked(NamedTuple):
    """An arm that can be run: its flags, its config, and what `build.check` gives."""

    flags: dict[str, str]
    section: dict[str, Any]
    experiment: build.Experiment


def _arms(sweep: Sweep, flags: Mapping[str, str]) -> dict[str, Setting]:
    """The settings by the names of their arms, the claim's baseline first."""
    if not sweep.arms:
        raise errors.ConfigError("arms: none; give a setting or more")
    own_names = [setting.get("name") for setting in sweep.arms]
    settings = [
        {k: v for k, v in setting.items() if k != "name"} for setting in sweep.arms
    ]
    for setting in settings:
        for field in setting:
            if field == "seed":
                raise errors.ConfigError("arms: seed: is no setting; use `seeds`")
            if field in flags or field in sweep.fields:
                where = "a flag" if field in flags else "`fields`"
                raise errors.ConfigError(
                    f"arms: {field}: the arms set it, and so does {where}; leave one"
                )
    names = [own or name for own, name in zip(own_names, _names(settings), strict=True)]
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise errors.ConfigError(
                f"arms: name: {name!r:.80} is no name of at most 60 letters, digits "
                "and . _ + -"
            )
        if names.count(name) > 1:
            both = [s for n, s in zip(names, settings, strict=True) if n == name]
            raise errors.ConfigError(
                f"arms: two are {name!r}: {both[0]} and {both[1]}; leave one out, or "
                "give them a `name`"
            )
    arms = dict(zip(names, settings, strict=True))
    if sweep.claim is not None and sweep.claim.base is not None:
        if (base := sweep.claim.base) not in arms:
            raise errors.ConfigError(
                f"claim.base: no arm {base!r}, but {errors.some(names, count=20)}"
            )
        arms = {base: arms[base], **arms}
    if sweep.claim is not None:
        base, *others = arms
        if unknown := sweep.claim.expects.keys() - set(others):
            raise errors.ConfigError(
                f"claim.expects: {min(unknown)!r} is no arm beside {base}, but "
                f"{errors.some(others, count=20)}"
            )
    return arms


def _names(settings: Sequence[Setting]) -> list[str]:
    """A name for each setting: its loss, and what else tells it from the others."""
    fields = dict.fromkeys(field for setting in settings for field in setting)
    others = [field for field in fields if field != "objective.loss"]

    def name(setting: Setting, count: int) -> str:
        loss = setting.get("objective.loss")
        parts = [] if loss is None else [_short(loss)]
        for field in others[:count]:
            if (value := setting.get(field)) is not None:
                apart = "" if isinstance(value, (int, float)) else "-"
                parts.append(f"{field.rpartition('.')[2]}{apart}{_short(value)}")
        return "_".join(parts)[:60] or "base"

    for count in range(len(others) + 1):
        names = [name(setting, count) for setting in settings]
        if len(set(names)) == len(names):
            break
    return names


def _short(value: Any) -> str:
    """A value as part of a name."""
    text = str(value).rpartition(":")[2].rpartition("/")[2]
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")[:40] or "none"


def _text(value: Any) -> str:
    """A value as a flag spells it."""
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value)


def _check(section, flags: dict[str, str], seed: int, network: bool):
    """An arm with one store of reference log-probs, and notes on what was set."""
    flags = dict(flags)
    loaded = config_file.override(section, list(flags.items()))
    notes, own = list(loaded.notes), config.to_json(loaded.section)
    if (needs := _needs(own)) is not None:
        reference = dict(own.get("reference") or {})
        stores = needs.reference and not needs.unstored
        stores = stores and reference.get("update_every") is None
        stores = stores and not own.get("rollouts")  # of responses that are not yet
        if not needs.reference:
            cleared = [k for k, x in reference.items() if x is not None]
            flags |= {f"reference.{name}": "none" for name in cleared}
            own["reference"] = {}
        elif stores != bool(reference.get("store")):
            flags["reference.store"] = _text(bool(stores))
            own["reference"] = {**reference, "store": bool(stores)}
        if needs.reference and needs.unstored:
            what = ", ".join(needs.unstored)
            notes.append(f"computes its reference at every step: no store has {what}")
    experiment = build.check({**own, "seed": seed}, network=network)
    return _Checked(flags, own, experiment), notes


def _needs(section: Mapping[str, Any]):
    """What the objective of a config needs; None for faults that others report."""
    try:
        model = models.build({"family": "llama", "name": "nano"}, 1)
        return objectives.build(model, section.get("objective") or {}).needs
    except (errors.ConfigError, AttributeError, TypeError):
        return None


def _equal_responses(
    checked: dict[str, _Checked],
    arms: Mapping[str, Setting],
    notes: list[str],
    network: bool,
) -> None:
    """Gives arms that read other groups than the baseline as many responses."""
    kind = lambda arm: arm.experiment.objective.needs.data
    base, budget = next(iter(arms)), None
    for name, arm in checked.items():
        if kind(arm) == kind(checked[base]) or arms[name].get("steps") is not None:
            continue
        if not {kind(arm), kind(checked[base])} <= RESPONSES.keys():
            notes.append(
                f"{name}: reads {kind(arm)}, {base} {kind(checked[base])}: budgets "
                "are not made equal; set `steps` in its setting"
            )
            continue
        if budget is None:
            first = checked[base].experiment
            size = first.config.steps * first.config.batch_size
            budget = _data(first).count_groups(0, size) * RESPONSES[kind(checked[base])]
        steps = _steps_to(arm.experiment, -(-budget // RESPONSES[kind(arm)]))
        run = arm.experiment
        notes.append(
            f"{name}: {steps} steps in place of {run.config.steps}, for as many "
            f"responses as {base} sees, {budget:,}"
        )
        flags = arm.flags | {"steps": str(steps)}
        section = {**arm.section, "steps": steps}
        seeded = {**section, "seed": run.config.seed}
        experiment = build.check(seeded, network=network)
        checked[name] = _Checked(flags, section, experiment)


def _data(run: build.Experiment):
    return build.load_data(run, build.load_tokenizer(run), "train")


def _steps_to(run: build.Experiment, groups: int) -> int:
    """The fewest steps that see so many groups."""
    data, size = _data(run), run.config.batch_size
    high = 1
    while data.count_groups(0, high * size) < groups:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = data.count_groups(0, middle * size) >= groups
        low, high = (low, middle) if enough else (middle, high)
    return high


def _identity(run: build.Experiment) -> dict[str, Any]:
    """All that a run ends with follows from, but for its seed: defaults too."""
    leaves = {name: field.default for name, field in schema.fields(run.json).items()}
    leaves |= {name: x for name, x in config.leaves(run.json) if x is not None}
    leaves = {k: x for k, x in leaves.items() if resume.decides(k) and k != "seed"}
    for name, other in (("init", run.parent), ("reference", run.reference)):
        leaves[f"{name}.digest"] = other and other.digest()
    for field in ("sources", "validation_sources"):
        opened = loader.load_sources(getattr(run.config.data, field), f"data.{field}")
        leaves |= {f"data.{field}.{k}.digest": s.identity for k, s in opened.items()}
    return json.loads(json.dumps(leaves, sort_keys=True, default=str))


def _start(run: build.Experiment) -> tuple[str, int] | None:
    """The path and the step of the run that an experiment starts from."""
    return run.parent and (run.config.init.run, run.parent.step)


def _held(identity: Mapping[str, Any], varies: Sequence[str]) -> dict[str, Any]:
    """The part of an identity that all arms share."""
    return {
        name: value
        for name, value in identity.items()
        if name.split(".")[0] not in (*FREE, *varies)
    }


def _check_held(identities: Mapping[str, Mapping], varies: Sequence[str]) -> None:
    section_names = {field.name for field in dataclasses.fields(sections.Config)}
    if unknown := set(varies) - section_names:
        raise errors.ConfigError(f"sweep.varies: {min(unknown)!r} is no section")
    base, *others = identities
    first = _held(identities[base], varies)
    problems = []
    for name in others:
        lines = config.differences(first, _held(identities[name], varies))
        problems += [f"arms.{name}: {line:.200}" for line in lines]
    if problems:
        parts = {p.split(": ")[1].split(".")[0] for p in problems}
        named = ", ".join(f'"{part}"' for part in sorted(parts))
        remedy = f"arms differ from {base} in what a comparison holds equal; leave it "
        remedy += f"out, or say varies=({named},)"
        raise errors.ConfigError([*problems[:10], remedy])


def _check_distinct(runs: Sequence[PlannedRun]) -> None:
    first: dict[str, PlannedRun] = {}
    for run in runs:
        other = first.setdefault(run.digest, run)
        if other is not run:
            raise errors.ConfigError(
                f"arms: {other.arm} and {run.arm} are the same setting, whatever they "
                "spell; leave one out"
            )
