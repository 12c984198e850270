# SPDX-License-Identifier: Apache-2.0
"""Programs are read right: two stored ones of steps, and lines made up for a rule.

They are the steps of commits 99d2a9f and 6cc734b, with jax 0.11.2, by `alignjax plan
--topology=h200 --config.model.attention=cudnn --text=FILE` and

    --config=configs/pretrain/gpt2_124m.py --config.batch_size=32
    --config=configs/pretrain/llama_1b.py --config.batch_size=8 --config.microbatches=1
        --config.model.dtype=bfloat16 --config.objective.z_loss=0

without the tables of source files. Both were timed on an H200 (docs/performance.md),
and the factor of that card was fitted on GPT-2's alone.
"""

import pathlib

import pytest

from alignjax import errors
from alignjax.plan import cards, floors, memory, program

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def gpt2():
    return program.parse(program.read(HERE / "gpt2_124m_h200.txt.gz"))


@pytest.fixture(scope="module")
def llama():
    return program.parse(program.read(HERE / "llama_1b_h200.txt.gz"))


def kernels(entry: str, *computations: str):
    """Of a program whose other computations are given as text."""
    text = "\n\n".join(
        [*computations, f"ENTRY %main (p: f32[]) -> f32[] {{\n{entry}\n}}"]
    )
    return program.kernels(program.parse(text))


def test_a_step_has_the_operations_of_its_mathematics(gpt2):
    """12 layers of 7,077,888 weights, and four products of the head, of which the
    mathematics needs three; tokens are 32 x 1024."""
    tokens, layers, head = 32 * 1024, 12 * 7_077_888, 50_304 * 768
    products = [x for x in program.kernels(gpt2) if x.flops and not x.attention]
    flops = sum(x.times * x.flops for x in products)
    assert flops == pytest.approx((6 * layers + 8 * head) * tokens, rel=1e-4)
    attention = [x for x in program.kernels(gpt2) if x.attention]
    assert [x.times for x in attention] == [12, 12]
    pairs = 32 * 12 * 1024 * 1024 / 2  # of the 7 products, each 2 operations of 64
    assert sum(x.flops for x in attention) == 14 * 64 * pairs


def test_a_step_of_gpt2_takes_the_time_that_was_measured(gpt2):
    """119.1 ms on one H200, with a dense mask of segments."""
    card = cards.find("h200")
    parts = floors.by_part(program.kernels(gpt2), card)
    ms = {name: round(1e3 * part.seconds, 1) for name, part in parts.items()}
    assert ms["products of layers"] == 21.1
    assert ms["products of the head"] == 12.8
    assert ms["cross-entropy"] == 12.0
    assert ms["stacking in loops"] == 11.3
    assert ms["clearing"] == 5.7 and ms["unstacking in loops"] == 4.4
    assert ms["attention"] == 15.2
    total = 1e3 * sum(part.seconds for part in parts.values())
    assert total == pytest.approx(97.1, abs=0.1)
    assert total * card.factor == pytest.approx(119.1, rel=0.08)


def test_a_step_of_llama_takes_the_time_that_was_measured(llama):
    """355.9 ms on one H200, which no factor was fitted on; 48 calls of attention, since
    the forward one of 16 layers ran twice."""
    card = cards.find("h200")
    parts = floors.by_part(program.kernels(llama), card)
    assert parts["attention"].kernels == 48
    total = 1e3 * sum(part.seconds for part in parts.values())
    assert total == pytest.approx(290.4, abs=0.1)
    assert total * card.factor == pytest.approx(355.9, rel=0.08)


def test_temporaries_are_those_of_the_card(gpt2, llama):
    """24.7 and 18.1 GiB on one H200."""
    for parsed, measured in ((gpt2, 24.7), (llama, 18.1)):
        peak, _ = memory.fullest(parsed, parsed.entry)
        assert peak / 2**30 == pytest.approx(measured, rel=0.05)


def test_what_is_live_at_the_peak_is_what_the_compiler_allocates(gpt2):
    """24.08 GiB of temporaries by its own analysis."""
    peak, _ = memory.fullest(gpt2, gpt2.entry)
    assert peak / 2**30 == pytest.approx(24.08, rel=0.01)
    (first, count), *_ = memory.largest(gpt2)
    assert (first.shape, count) == ("bf16[12,32,1024,3072]", 2)
    assert first.place == "layers/mlp/up/dot_general"


def test_loops_run_as_often_as_they_say():
    (kernel,) = kernels(
        "  %w = (f32[8]{0}) while(%t), condition=%c, body=%b, "
        'backend_config={"known_trip_count":{"n":"7"}}\n'
        "  ROOT %r = f32[] constant(0)",
        "%b (p: f32[8]) -> f32[8] {\n  %p = f32[8]{0} parameter(0)\n"
        "  ROOT %x = f32[8]{0} exponential(%p)\n}",
    )
    assert (kernel.times, kernel.read, kernel.written) == (7, 32, 32)


def test_loops_that_do_not_say_run_until_their_counter_is_at_its_limit():
    """As those of TPUs."""
    (kernel,) = kernels(
        "  %w = (s32[]) while(%t), condition=%c, body=%b\n"
        "  ROOT %r = f32[] constant(0)",
        "%b (p: f32[8]) -> f32[8] {\n  %p = f32[8]{0} parameter(0)\n"
        "  ROOT %x = f32[8]{0} exponential(%p)\n}",
        "%c (p: s32[]) -> pred[] {\n  %p = s32[] parameter(0)\n"
        "  %n = s32[] constant(5)\n"
        "  ROOT %l = pred[] compare(%p, %n), direction=LT\n}",
    )
    assert kernel.times == 5


def test_a_turn_of_a_loop_may_do_the_work_of_two():
    """As where TPUs multiply what they have while they send it on: 0, 2, 4 of 5."""
    _, kernel = kernels(
        "  %w = (f32[8]{0}, u32[]) while(%t), condition=%c, body=%b\n"
        "  ROOT %r = f32[] constant(0)",
        "%b (p: (f32[8], u32[])) -> (f32[8], u32[]) {\n"
        "  %p = (f32[8]{0}, u32[]) parameter(0)\n"
        "  %x = f32[8]{0} get-tuple-element(%p), index=0\n"
        "  %i = u32[] get-tuple-element(%p), index=1\n"
        "  %two = u32[] constant(2)\n"
        "  %next = u32[] add(%i, %two)\n"
        "  %y = f32[8]{0} exponential(%x)\n"
        "  ROOT %both = (f32[8]{0}, u32[]) tuple(%y, %next)\n}",
        "%c (p: (f32[8], u32[])) -> pred[] {\n"
        "  %p = (f32[8]{0}, u32[]) parameter(0)\n"
        "  %i = u32[] get-tuple-element(%p), index=1\n"
        "  %n = u32[] constant(5)\n"
        "  ROOT %l = pred[] compare(%i, %n), direction=LT\n}",
    )
    assert (kernel.opcode, kernel.times) == ("exponential", 3)


def test_of_what_is_brought_onto_the_chip_the_memory_is_read_once():
    """As TPUs bring parts of arrays to where they multiply them, and results back."""
    there = "f32[4,8]{1,0:T(8,128)}"
    here = "f32[1,8]{1,0:T(8,128)S(1)}"
    lines = kernels(
        f"  %p = {there} parameter(0)\n"
        f"  %s = (({there}), {here}, s32[]{{:S(2)}}) slice-start(%p), slice={{[0:1], "
        "[0:8]}\n"
        f"  %d = {here} slice-done(%s)\n"
        f"  %e = {here} exponential(%d)\n"
        f"  %c = (f32[1,8]{{1,0}}, {here}, u32[]{{:S(2)}}) copy-start(%e)\n"
        "  ROOT %r = f32[1,8]{1,0} copy-done(%c)"
    )
    traffic = {kernel.opcode: (kernel.read, kernel.written) for kernel in lines}
    assert traffic == {"slice": (32, 0), "exponential": (0, 0), "copy": (0, 32)}


@pytest.mark.parametrize(
    ("window", "pairs"),
    [
        ("size=4", 4),
        ("size=4 pad=3_3", 1 + 2 + 3 + 4 + 3 + 2 + 1),
        ("size=4 stride=4 lhs_dilate=4 pad=0_0", 1),
        ("size=4 pad=3_3 rhs_reversal=1", 16),
    ],
)
def test_of_a_convolution_only_what_meets_counts(window, pairs):
    """As compilers of TPUs write products: 8 rows, 16 features in and 32 out."""
    out = 7 if "pad=3_3" in window else 1
    (kernel,) = kernels(
        "  %x = bf16[8,4,16]{2,1,0} parameter(0)\n"
        "  %k = bf16[4,16,32]{2,1,0} parameter(1)\n"
        f"  ROOT %c = bf16[8,{out},32]{{2,1,0}} convolution(%x, %k), "
        f"window={{{window}}}, dim_labels=b0f_0io->b0f"
    )
    assert kernel.flops == 2 * 8 * 16 * 32 * pairs


def fusion(body: str, shape: str, *operands: str):
    lines = [
        f"  %a{i} = {operand} parameter({i})" for i, operand in enumerate(operands)
    ]
    names = ", ".join(f"%a{i}" for i in range(len(operands)))
    lines.append(f"  ROOT %f = {shape} fusion({names}), kind=kLoop, calls=%g")
    inner = "\n".join([*lines[:-1], body])
    (kernel,) = kernels("\n".join(lines), f"%g (p: f32[]) -> f32[] {{\n{inner}\n}}")
    return kernel


def test_a_fusion_reads_of_an_operand_what_it_slices():
    kernel = fusion(
        "  %v = f32[12,8]{1,0} bitcast(%a0)\n"
        "  ROOT %s = f32[1,8]{1,0} dynamic-slice(%v, %a1), dynamic_slice_sizes={1,8}",
        "f32[1,8]{1,0}",
        "f32[96]{0}",
        "s32[]",
    )
    assert (kernel.read, kernel.written) == (32 + 4, 32)
    assert floors.part(kernel) == "unstacking in loops"


def test_a_fusion_that_updates_in_place_moves_the_update_alone():
    kernel = fusion(
        "  ROOT %u = f32[12,8]{1,0} dynamic-update-slice(%a0, %a1, %a2)",
        "f32[12,8]{1,0}",
        "f32[12,8]{1,0}",
        "f32[1,8]{1,0}",
        "s32[]",
    )
    assert (kernel.read, kernel.written) == (32 + 4, 32)


def test_an_operand_that_is_sliced_and_used_is_read_once():
    kernel = fusion(
        "  %s = f32[1,8]{1,0} dynamic-slice(%a0, %a1), dynamic_slice_sizes={1,8}\n"
        "  ROOT %u = f32[12,8]{1,0} add(%a0, %s)",
        "f32[12,8]{1,0}",
        "f32[12,8]{1,0}",
        "s32[]",
    )
    assert kernel.read == 12 * 8 * 4 + 4


@pytest.mark.parametrize(
    ("groups", "first", "axes"),
    [
        ("{{0,1},{2,3}}", [0, 1], "tensor"),
        ("[2,4]<=[8]", [0, 1, 2, 3], "fsdp+tensor"),
        ("[4,2]<=[2,2,2]T(2,1,0)", [0, 4], "data"),
        ("[2,4]<=[2,2,2]T(1,2,0)", [0, 4, 1, 5], "data+tensor"),
        ("mesh['a'=4,'b'=1,'c'=2] {'c'}", [0, 1], "tensor"),
        ("mesh['a'=2,'b'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}", [0, 2], "fsdp"),
        ("", [0], "all"),
    ],
)
def test_replica_groups_lie_along_axes_of_the_mesh(groups, first, axes):
    assert program.first_group(groups) == first
    attributes = f", replica_groups={groups}, dimensions={{0}}" if groups else ""
    program_kernels = kernels(
        "  %p = bf16[100]{0} parameter(0)\n"
        f"  ROOT %g = bf16[200]{{0}} all-gather(%p){attributes}"
    )
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    (row,) = floors.collectives(program_kernels, cards.find("h100"), mesh)
    assert (row.opcode, row.axes) == ("all-gather", axes)
    assert row.nbytes == 200 * len(first)


def test_other_texts_are_no_programs():
    with pytest.raises(ValueError, match="ENTRY"):
        program.parse("a page of something else")


def test_an_unknown_card_is_refused_with_the_known():
    with pytest.raises(errors.ConfigError, match="h200") as error:
        cards.find("h20")
    assert error.value.problems[0].startswith("topology:")


def test_the_card_of_a_device_is_known_by_its_whole_name():
    """Which one name begins another's: TPU v5 is the v5p, TPU v5 lite the v5e."""
    for name, card in cards.CARDS.items():
        assert cards.of_kind(card.kind) is cards.CARDS[name]
    assert cards.of_kind("NVIDIA H200 NVL") is None
