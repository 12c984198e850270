# SPDX-License-Identifier: Apache-2.0
"""Traces of known events: what is summed, what is idle, what nothing hides."""

import gzip
import json
import os
import pathlib

import pytest
from jax import profiler

from alignjax import errors
from alignjax.plan import cards, floors, processor, profile, program, trace

TEXT = """HloModule jit_step, is_scheduled=true

%body (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %dot.1 = f32[8,8]{1,0} dot(%p, %p), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}, metadata={op_name="jit(step)/layers/mlp/dot_general"}
}

ENTRY %main (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  %exp.1 = f32[8,8]{1,0} exponential(%p), metadata={op_name="jit(step)/norm/exp"}
  %while.1 = f32[8,8]{1,0} while(%exp.1), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"2"}}
  ROOT %all-reduce.1 = f32[8,8]{1,0} all-reduce(%while.1), replica_groups={{0,1}}
}
"""
# Of one step of 100 ns: name, start, nanoseconds.
STEP = [
    ("exp.1", 0, 10),
    ("while.1", 10, 50),  # the loop itself is no kernel
    ("dot.1", 10, 20),
    ("dot.1", 30, 20),
    ("all-reduce.1", 45, 25),  # 5 of it beside a product
]


def xplane(path: pathlib.Path, plane: str, line: str, stats: bool = True) -> None:
    """A trace of two steps, 100 ns apart, with a pause of 1000 before a third."""
    names = sorted({name for name, *_ in STEP})
    events = []
    for start in (0, 100, 1200):
        for name, at, length in STEP:
            number = names.index(name) + 1
            stat = f"stats {{ metadata_id: 1 ref_value: {10 + number} }} "
            stat += "stats { metadata_id: 2 str_value: 'jit_step' }"
            events.append(
                f"events {{ metadata_id: {number} offset_ps: {(start + at) * 1000} "
                f"duration_ps: {length * 1000} {stat if stats else ''} }}"
            )
    metadata = [
        f"event_metadata {{ key: {i} value {{ id: {i} name: '%{name} = f32[]' }} }} "
        f"stat_metadata {{ key: {10 + i} value {{ id: {10 + i} name: '{name}' }} }}"
        for i, name in enumerate(names, start=1)
    ]
    kinds = ["stat_metadata { key: 1 value { id: 1 name: 'hlo_op' } }"]
    kinds += ["stat_metadata { key: 2 value { id: 2 name: 'hlo_module' } }"]
    text = (
        f"planes {{ name: '{plane}' lines {{ name: '{line}' {' '.join(events)} }} "
        f"{' '.join(metadata + kinds)} }}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(profiler.ProfileData.text_proto_to_serialized_xspace(text))


@pytest.fixture(
    params=[
        ("/host:CPU", "tf_XLAPjRtCpuClient/1", True),
        ("/device:GPU:0", "Stream #13(Compute)", True),
        ("/device:TPU:0", "XLA Ops", False),
    ]
)
def run(request, tmp_path):
    """A workdir with a trace as each kind of device writes it."""
    folder = tmp_path / "profile"
    xplane(folder / "plugins/profile/now/host.xplane.pb", *request.param)
    program.write(folder / program.FILE, TEXT, "NVIDIA H200")
    return tmp_path


@pytest.fixture
def run_of_gpu(tmp_path):
    """A workdir with a trace of one GPU."""
    folder = tmp_path / "profile"
    trace_file = folder / "plugins/profile/now/host.xplane.pb"
    xplane(trace_file, "/device:GPU:0", "Stream #13(Compute)")
    program.write(folder / program.FILE, TEXT, "NVIDIA H200")
    return tmp_path


def test_times_of_a_step(run):
    figures = profile.measure(*profile.load(run), cards.find("h200"))
    assert (figures["steps"], figures["devices"]) == (3, 1)
    assert figures["step_s"] == pytest.approx(600e-9)  # the median of 100 and 1100
    assert figures["idle_s"] == pytest.approx((600 - 70) * 1e-9)
    assert figures["exposed_collectives_s"] == pytest.approx(20e-9)
    kinds = {name: x["seconds"] * 1e9 for name, x in figures["kinds"].items()}
    expected = {"products": 40, "collectives": 25, "element-wise": 10}
    assert kinds == pytest.approx(expected)
    parts = {name: x["times"] for name, x in figures["parts"].items()}
    expected = {"products of layers": 2, "norms": 1, "collectives": 1}
    assert parts == pytest.approx(expected)
    floor = figures["kinds"]["products"]["floor"]
    card = cards.find("h200")
    assert floor == pytest.approx(2 * 3 * 256 / card.bandwidth)
    assert "products" in profile.page(figures, 2)


def test_the_command_finds_the_card_of_the_run(run, capsys):
    assert profile.main([str(run)]) == errors.DONE
    page = capsys.readouterr().out
    assert "3 steps on 1 device(s)" in page and "dot.1" in page
    assert profile.main([str(run), "--card=h20"]) == errors.CONFIG


def test_floors_of_this_machine_are_measured_where_they_are_asked_for(
    run, capsys, monkeypatch
):
    """Of a product its operations over the peak, of a copy its bytes."""
    monkeypatch.setattr(processor, "SIDE", 128)
    monkeypatch.setattr(processor, "COPIED", 2**16)
    monkeypatch.setattr(processor, "SECONDS", 0.05)
    card = processor.card()
    assert card.memory > 2**28 and min(card.peak, card.bandwidth) > 1e7
    product = program.Kernel("", "dot", "", "dot", 1, flops=1e9, read=4, written=4)
    assert floors.seconds(product, card) == 1e9 / card.peak
    copy = program.Kernel("", "copy", "", "copy", 1, read=10**9, written=10**9)
    assert floors.seconds(copy, card) == 2e9 / card.bandwidth
    assert profile.main([str(run), "--card=cpu", "--json"]) == errors.DONE
    kernels = json.loads(capsys.readouterr().out)["kernels"]
    assert all(
        kernel["floor"] > 0 for kernel in kernels if kernel["kind"] == "products"
    )


def test_a_trace_of_another_program_is_refused(run):
    folder = run / "profile"
    other = TEXT.replace("exp.1", "exp.7").replace("all-reduce.1", "all-reduce.7")
    program.write(folder / program.FILE, other, "")
    with pytest.raises(errors.ConfigError, match=r"^run: "):
        profile.measure(*profile.load(run), None)


def test_a_run_without_a_trace_or_a_program_is_refused(run):
    (run / "profile" / program.FILE).write_bytes(b"no gzip")
    with pytest.raises(errors.DataError):
        profile.load(run)
    (path,) = run.rglob("*.xplane.pb")
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(errors.DataError):
        profile.load(run)
    path.unlink()
    assert profile.main([str(run)]) == errors.CONFIG


ODD = {
    "a loop without its body": TEXT.replace("body=%body", "body=%nothing"),
    "a loop in itself": TEXT.replace("body=%body", "body=%main"),
    "more times than a float holds": TEXT.replace('"n":"2"', f'"n":"{"9" * 400}"'),
    "larger than a float holds": TEXT.replace("f32[8,8]", f"f32[{'9' * 400},8]"),
    "no bits": TEXT.replace("f32[", "zz["),
    "an operand that is not there": TEXT.replace("dot(%p, %p)", "dot(%q, %q)"),
    "cut": TEXT[:300],
    "nothing": "",
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_program_of_somebody_is_one_message(run_of_gpu, capsys, what):
    program.write(run_of_gpu / "profile" / program.FILE, ODD[what], "NVIDIA H200")
    code = profile.main([str(run_of_gpu)])
    out, err = capsys.readouterr()
    assert code == errors.DONE or (code in (errors.CONFIG, errors.DATA) and not out)
    assert code == errors.DONE or len(err.splitlines()) == 1


@pytest.mark.parametrize("end", [".xplane.pb", program.FILE])
@pytest.mark.parametrize("what", ["fifo", "endless", "bomb", "damaged"])
def test_files_that_are_none_end_at_once(run_of_gpu, monkeypatch, end, what):
    (file,) = run_of_gpu.rglob(f"*{end}")
    data = file.read_bytes()
    file.unlink()
    monkeypatch.setattr(program, "MOST_BYTES", 2**16)
    if what == "fifo":
        os.mkfifo(file)
    elif what == "endless":
        file.symlink_to("/dev/zero")
    elif what == "bomb":
        file.write_bytes(gzip.compress(b" " * 2**20))
    else:
        file.write_bytes(data[:12] + b"\xff" * 30 + data[42:])
    assert profile.main([str(run_of_gpu)]) == errors.DATA


def test_what_a_program_is_called_does_not_steer_the_terminal(run_of_gpu, capsys):
    odd = TEXT.replace("norm/exp", "norm/\x1b[2Jexp")
    program.write(run_of_gpu / "profile" / program.FILE, odd, "NVIDIA H200")
    assert profile.main([str(run_of_gpu)]) == errors.DONE
    assert "\x1b" not in capsys.readouterr().out


def test_the_union_of_intervals():
    assert trace.covered([(0, 4), (2, 3), (3, 6), (8, 9)]) == 7
    assert trace.covered([]) == 0


def test_every_kernel_has_one_of_the_kinds():
    kernels = program.kernels(program.parse(TEXT))
    assert [floors.kind(kernel) for kernel in kernels] == [
        "element-wise",
        "products",
        "collectives",
    ]
