"""How long a compiled program would take on a machine that isn't here, by its text."""

import pytest

from jaxsoftmax.bench._targets import Gpu, Tpu, costs

GPU = Gpu(bandwidth=1e9, peak=1e12, memory=1)  # a byte a nanosecond, a thousand flops a nanosecond
TPU = Tpu(clock=1e9, peak=1e12)  # a cycle a nanosecond

PROGRAM = """
HloModule jit_f

%reads_a_slice (rows: f32[64,256], at: s32[]) -> f32[1,256] {
  %rows = f32[64,256]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,256]{1,0} dynamic-slice(%rows, %at, %zero), dynamic_slice_sizes={1,256}
  ROOT %twice = f32[1,256]{1,0} add(%slice, %slice)
}

%writes_a_slice (whole: bf16[64,256], part: bf16[1,256], at: s32[]) -> bf16[64,256] {
  %whole = bf16[64,256]{1,0} parameter(0)
  %part = bf16[1,256]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %updated = bf16[64,256]{1,0} dynamic-update-slice(%whole, %part, %at, %zero)
}

%body (state: (s32[], f32[64,256])) -> (s32[], f32[64,256]) {
  %state = (s32[], f32[64,256]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %rows = f32[64,256]{1,0} get-tuple-element(%state), index=1
  %read = f32[1,256]{1,0} fusion(%rows, %i), kind=kLoop, calls=%reads_a_slice, backend_config={"estimated_cycles":"7"}
  ROOT %next = (s32[], f32[64,256]{1,0}) tuple(%i, %rows)
}

%condition (state: (s32[], f32[64,256])) -> pred[] {
  %state = (s32[], f32[64,256]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %bound = s32[] constant(5)
  ROOT %below = pred[] compare(%i, %bound), direction=LT
}

%cheap (x: f32[16]) -> f32[16] {
  %x = f32[16]{0} parameter(0)
  ROOT %cheap_negative = f32[16]{0} negate(%x), backend_config={"estimated_cycles":"1"}
}

%dear (x: f32[16]) -> f32[16] {
  %x = f32[16]{0} parameter(0)
  %first = f32[16]{0} negate(%x), backend_config={"estimated_cycles":"20"}
  ROOT %second = f32[16]{0} negate(%first), backend_config={"estimated_cycles":"30"}
}

ENTRY %main (rows: f32[64,256], left: bf16[128,512], right: bf16[512,64], x: f32[16], which: pred[]) -> f32[128,64] {
  %rows = f32[64,256]{1,0} parameter(0)
  %left = bf16[128,512]{1,0} parameter(1)
  %right = bf16[512,64]{1,0} parameter(2)
  %x = f32[16]{0} parameter(3)
  %which = pred[] parameter(4)
  %zero = s32[] constant(0)
  %start = (s32[], f32[64,256]{1,0}) tuple(%zero, %rows)
  %loop = (s32[], f32[64,256]{1,0}) while(%start), condition=%condition, body=%body
  %whole = bf16[64,256]{1,0} broadcast(%zero), dimensions={}
  %part = bf16[1,256]{1,0} broadcast(%zero), dimensions={}
  %write = bf16[64,256]{1,0} fusion(%whole, %part, %zero), kind=kLoop, calls=%writes_a_slice
  %chosen = f32[16]{0} conditional(%which, %x, %x), true_computation=%cheap, false_computation=%dear
  ROOT %product = f32[128,64]{1,0} dot(%left, %right), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def nanoseconds(chip):
    return {cost.name: cost.seconds * 1e9 for cost in costs(chip, PROGRAM)}


def test_a_fusion_that_reads_a_slice_reads_that_much_in_each_trip_of_its_loop():
    (read,) = (cost for cost in costs(GPU, PROGRAM) if cost.name == "read")
    assert read.trips == 5
    assert read.seconds * 1e9 == pytest.approx(5 * (2 * 4 * 256 + 4))


def test_a_fusion_that_updates_a_slice_writes_that_much():
    assert nanoseconds(GPU)["write"] == pytest.approx(2 * 2 * 256 + 4)


def test_a_product_takes_its_bytes_or_its_flops_whichever_take_longer():
    moved = 2 * (128 * 512 + 512 * 64) + 4 * 128 * 64
    assert nanoseconds(GPU)["product"] == pytest.approx(moved)
    slow = Gpu(bandwidth=1e9, peak=1e9, memory=1)
    assert nanoseconds(slow)["product"] == pytest.approx(2 * 128 * 512 * 64)


def test_a_conditional_takes_its_dearest_branch():
    assert {"cheap_negative", "first", "second"} & nanoseconds(GPU).keys() == {"first", "second"}


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        (("f32[16]{0} negate(%first)", "f7[16]{0} negate(%first)"), "no size is known of f7"),
        (("s32[] constant(5)", "s32[] parameter(1)"), "how often the loop loop runs is not in the program"),
    ],
)
def test_what_cannot_be_read_is_an_error(planted, said):
    with pytest.raises(ValueError, match=said):
        costs(GPU, PROGRAM.replace(*planted))


def test_of_a_tpu_the_compilers_own_cycles_count_with_the_trips_of_loops():
    assert nanoseconds(TPU) == pytest.approx({"read": 35.0, "second": 30.0, "first": 20.0})


def test_the_dearest_instruction_comes_first():
    assert [cost.name for cost in costs(TPU, PROGRAM)] == ["read", "second", "first"]
