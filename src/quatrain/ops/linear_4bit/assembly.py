"""What the GPU kernel of the 4-bit product says in the assembler's words: tables in shared memory, filled and read.

Triton has no shared memory that a kernel can name, so these fragments declare it themselves. They are texts, run on a
GPU by `triton.py` and without one by an interpreter in the tests.
"""

FILL_TABLES = (
    ".shared .align 128 .b8 pairs_by_lane[32768];\n"
    ".shared .align 128 .b8 scale_map[1024];\n"
    "{ .reg .u32 entry, value, place, row, at; .reg .u64 source; .reg .pred done;\n"
    "mov.u32 entry, %tid.x;\n"
    "NEXT_ENTRY:\n"
    "setp.ge.u32 done, entry, 256;\n"
    "@done bra ALL_ENTRIES;\n"
    "mad.wide.u32 source, entry, 4, $2;\n"
    "ld.global.nc.u32 value, [source];\n"
    "mov.u32 at, scale_map;\n"
    "mad.lo.u32 at, entry, 4, at;\n"
    "st.shared.b32 [at], value;\n"
    "mad.wide.u32 source, entry, 4, $1;\n"
    "ld.global.nc.u32 value, [source];\n"
    # An entry's 128 bytes are written 16 at a time, beginning elsewhere for each lane, so that lanes use all banks.
    "and.b32 row, entry, 7;\n"
    "shl.b32 row, row, 4;\n"
    "mad.lo.u32 row, entry, 128, row;\n"
    "mov.u32 at, pairs_by_lane;\n"
    + "".join(
        f"xor.b32 place, row, {16 * step};\n"
        "add.u32 place, place, at;\n"
        "st.shared.v4.b32 [place], {value, value, value, value};\n"
        for step in range(8)
    )
    + "mov.u32 at, %ntid.x;\n"
    "add.u32 entry, entry, at;\n"
    "bra NEXT_ENTRY;\n"
    "ALL_ENTRIES:\n"
    "bar.sync 0;\n"
    "mov.u32 $0, 0; }"
)
"""Declares two tables in shared memory for the whole function and fills them, from the pairs at $1 and the 8-bit map at
$2."""

LOOK_UP_PAIRS = (
    "{ .reg .u32 lane, place, table;\n"
    "mov.u32 lane, %laneid;\n"
    "shl.b32 lane, lane, 2;\n"
    "mov.u32 table, pairs_by_lane;\n"
    + "".join(
        (f"shr.u32 place, $4, {8 * byte - 7};\n" if byte else "shl.b32 place, $4, 7;\n")
        # (place & 0x7F80) | lane: the byte's 128 bytes, and the lane's four of them.
        + "lop3.b32 place, place, 0x7F80, lane, 0xEA;\n"
        "add.u32 place, place, table;\n"
        f"ld.shared.b32 ${byte}, [place];\n"
        for byte in range(4)
    )
    + "}"
)
"""The pairs $0 to $3 that the bytes of $4 stand for."""

LOOK_UP_SCALES = (
    "{ .reg .u32 place, table;\n"
    "mov.u32 table, scale_map;\n"
    "shl.b32 place, $2, 2;\n"
    "and.b32 place, place, 0x3FC;\n"
    "add.u32 place, place, table;\n"
    "ld.shared.f32 $0, [place];\n"
    "shr.u32 place, $2, 6;\n"
    "and.b32 place, place, 0x3FC;\n"
    "add.u32 place, place, table;\n"
    "ld.shared.f32 $1, [place]; }"
)
"""What the two low bytes of $2 stand for in the 8-bit map."""
