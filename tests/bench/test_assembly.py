"""What bench.resources reads from assembly: widths of accesses, and what the assembler says of products that wait."""

import pytest

from bench.resources.assembly import amd_widths, ptx_widths, ptxas_warnings, widest
from bench.resources.compiled import programs_at_once
from bench.resources.targets import TARGETS

# Two products whose accumulators are read between them: the assembler has to make the second wait for the first.
_SERIALISED = """
.version 8.0
.target sm_90a
.address_size 64
.visible .entry planted(.param .u64 out)
{
  .reg .f32 %f<5>;
  .reg .b64 %rd<4>;
  ld.param.u64 %rd0, [out];
  mov.b64 %rd1, 0;
  mov.f32 %f0, 0f00000000; mov.f32 %f1, 0f00000000; mov.f32 %f2, 0f00000000; mov.f32 %f3, 0f00000000;
  wgmma.fence.sync.aligned;
  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0,%f1,%f2,%f3}, %rd1, %rd1, 1, 1, 1, 0, 0;
  BETWEEN
  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0,%f1,%f2,%f3}, %rd1, %rd1, 1, 1, 1, 0, 0;
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
  st.global.f32 [%rd0], %f0;
  ret;
}
"""


def test_loads_and_stores_are_read_with_their_widths():
    loads, stores = ptx_widths(
        "@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];\n"
        "ld.global.L1::evict_last.b16 { %rs1 }, [ %rd2 + 0 ];\n"
        "ld.global.b8 %rs2, [%rd3];\n"
        "ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r9];\n"
        "cp.async.cg.shared.global [ %r1 + 0 ], [ %rd4 + 0 ], 0x10, %r2;\n"
        "st.global.v2.b32 [ %rd5 + 0 ], { %r1, %r2 };\n"
    )
    assert loads == {16: 2, 2: 1, 1: 1}
    assert stores == {8: 1}
    assert widest(loads) == 16
    assert widest({}) == 0


def test_those_of_amd_have_names_of_their_own():
    loads, stores = amd_widths(
        "global_load_dwordx4 v[0:3], v4, s[0:1]\nbuffer_load_ushort v1, v2, s[0:3], 0 offen\n"
        "global_store_short v0, v1, s[0:1]\ns_load_dwordx2 s[0:1], s[2:3], 0x0\n"
    )
    assert (loads, stores) == ({16: 1, 2: 1}, {2: 1})


def test_products_that_the_assembler_makes_wait_are_told():
    told = ptxas_warnings(_SERIALISED.replace("BETWEEN", "add.f32 %f0, %f0, %f1;"), 90)
    assert any("C7517" in line for line in told)


def test_products_in_a_row_and_other_targets_have_nothing_to_tell():
    assert ptxas_warnings(_SERIALISED.replace("BETWEEN", ""), 90) == []
    assert ptxas_warnings(_SERIALISED.replace("BETWEEN", "add.f32 %f0, %f0, %f1;"), 100) == []


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "programs"),
    [(32, 0, 4, 16), (255, 0, 4, 2), (33, 0, 4, 12), (32, 100 << 10, 4, 2), (16, 0, 1, 32)],
)
def test_a_multiprocessor_holds_what_registers_threads_and_shared_memory_allow(registers, shared, warps, programs):
    assert programs_at_once(TARGETS["sm_90"], registers, shared, warps) == programs


def test_programs_of_amd_are_not_counted():
    assert programs_at_once(TARGETS["gfx942"], 64, 0, 4) == 0
