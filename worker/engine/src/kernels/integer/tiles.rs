//! Products by the tiles of AMX. Rust has no stable functions for its instructions, so they are written out
//! here.
#![expect(unsafe_code, reason = "instructions of one processor, and a call of the system that asks for them")]

use std::arch::asm;
use std::ops::Range;
use std::sync::LazyLock;

use super::dot::three;
use super::rows::Rows;
use super::{DEPTH, HEIGHT, IntegerMatrix, ROWS, Tile};

/// Rows from which on tiles are faster than registers.
pub(super) const WORTHWHILE: usize = ROWS + 1;

/// Outputs of two tiles side by side: a panel.
const WIDTH: usize = 32;

/// True if the processor has tiles of bytes, and Linux lets this process use them.
pub(super) fn are_here() -> bool {
    static ARE_HERE: LazyLock<bool> = LazyLock::new(|| have_instructions() && ask_for_state());
    *ARE_HERE
}

fn have_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const EXTENDED: u32 = 7;
    const AMX_TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    __cpuid(0).eax >= EXTENDED && __cpuid_count(EXTENDED, 0).edx & AMX_TILE_AND_INT8 == AMX_TILE_AND_INT8
}

/// Tiles are 8 KiB of state that a process has to ask for: `Documentation/arch/x86/xstate.rst` of Linux. A
/// kernel that does not know of them refuses.
fn ask_for_state() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call changes nothing but what this process may use.
    let answer = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA) };
    answer == 0
}

/// Sizes of the eight tiles, as the processor reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row; of 16 tiles, of which there are 8.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// 16 rows of 64 bytes each.
static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// As [`IntegerMatrix::multiply`].
///
/// # Safety
/// There are tiles: see [`are_here`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn multiply(m: &IntegerMatrix, rows: &Rows, outputs: Range<usize>, out: &mut [f32]) {
    let columns = outputs.len();
    // SAFETY: the shapes are valid ones, and whoever calls has made sure that there are tiles.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly, preserves_flags));
    }
    for first in outputs.clone().step_by(WIDTH) {
        let wide = WIDTH.min(outputs.end - first);
        let panel = m.panel_at(first);
        for (row, out) in (0..).step_by(HEIGHT).zip(out.chunks_mut(HEIGHT * columns)) {
            let tile = Tile { row, first, high: out.len() / columns, wide };
            let out = &mut out[first - outputs.start..];
            // SAFETY: the shapes are set.
            let digit = |digit: usize| unsafe {
                digit_sums(rows.plane(digit, row), rows.stride(), panel, rows.padded)
            };
            if rows.depth == 1 {
                let sums = digit(0);
                m.finish(rows, tile, |at, lane| f64::from(sums[at * WIDTH + lane]), out, columns);
            } else {
                let sums = [digit(0), digit(1), digit(2)];
                m.finish(rows, tile, |at, lane| three(&sums, at * WIDTH + lane), out, columns);
            }
        }
    }
    // SAFETY: nothing is in the tiles any more.
    unsafe {
        asm!("tilerelease", options(nostack, nomem, preserves_flags));
    }
}

/// The sums of the products of the first 32 rows of a plane of bytes, `stride` apart, with a panel of 32
/// outputs of so many inputs.
///
/// # Safety
/// There are tiles, and their shapes are [`SHAPES`].
#[inline(always)]
unsafe fn digit_sums(plane: &[u8], stride: usize, panel: &[i8], inputs: usize) -> [i32; HEIGHT * WIDTH] {
    let mut sums = [0; HEIGHT * WIDTH];
    assert!(inputs > 0 && inputs.is_multiple_of(DEPTH) && stride >= inputs);
    assert!(plane.len() >= (HEIGHT - 1) * stride + inputs && panel.len() >= inputs * WIDTH);
    // SAFETY: the assertions bound what is read: 32 rows of `inputs` bytes, and 32 codes for each input. What
    // is written are the sums, 32 rows of 128 bytes. All registers and tiles that are used are named.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            // Two tiles of rows below each other, two of codes beside each other, 64 inputs of each.
            "2:",
            "tileloadd tmm4, [{upper} + {stride}]",
            "tileloadd tmm5, [{lower} + {stride}]",
            "tileloadd tmm6, [{codes} + {line}]",
            "tileloadd tmm7, [{codes} + {line} + 64]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tdpbusd tmm1, tmm4, tmm7",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {codes}, 2048",
            "dec {left}",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 64], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 2112], tmm3",
            upper = inout(reg) plane.as_ptr() => _,
            lower = inout(reg) plane.as_ptr().add(HEIGHT / 2 * stride) => _,
            codes = inout(reg) panel.as_ptr() => _,
            left = inout(reg) inputs / DEPTH => _,
            stride = in(reg) stride,
            line = in(reg) 4 * WIDTH,
            sums = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    sums
}
