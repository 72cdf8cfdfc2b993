"""Writes seeded random blocks of each ggml tensor type, and their values as gguf-py dequantises them.

For a type T this makes, in the output folder (default: the script's own),

* `T.bin`      the raw blocks, one after another, as in a GGUF tensor;
* `T.f32.bin`  their values, little-endian float32, from `gguf.quants.dequantize`.

Every bit of the codes and sub-block scales is random; the float16 fields (`d`, `m`, `dmin`) are drawn
as finite numbers of the size real weights have, and the first few blocks hold the edge cases: zero,
negative zero, the smallest and largest subnormals, the smallest normal, the largest float16, and codes that are all 0
or all 1 bits. Scales of one byte are powers of two of the size real weights have, and their own edge
cases. Nothing is infinite or NaN, so the dequantised values may be compared bit for bit.
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Byte offsets of the float16 fields in one block; every other byte is codes or packed scales.
F16_FIELDS = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
# Types whose scale is one byte, the first: an E8M0.
E8M0 = ("MXFP4",)
# Values per file: raw bytes and float32 together stay under 64 KiB.
VALUES = {"quantised": 12_032, "float": 10_240}
# Valid scales and minima that random draws would rarely produce.
EDGE_F16 = (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF)
# The two that are subnormal, the smallest normal, the largest whose values are all finite, and 1.
EDGE_E8M0 = (0, 1, 2, 252, 128)


def random_f16(rng: np.random.Generator, n: int) -> np.ndarray:
    """`n` finite float16 scales: log-uniform from 2^-14 to 2^3, either sign."""
    return (np.exp2(rng.uniform(-14, 3, n)) * rng.choice([-1.0, 1.0], n)).astype(np.float16)


def quantised_blocks(name: str, rng: np.random.Generator) -> np.ndarray:
    """Blocks of a block-quantised type, `[blocks, bytes per block]`."""
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = VALUES["quantised"] // values
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    blocks[len(EDGE_F16)] = 0x00
    blocks[len(EDGE_F16) + 1] = 0xFF
    if name in E8M0:
        blocks[:, 0] = rng.integers(114, 132, count)
        blocks[: len(EDGE_E8M0), 0] = EDGE_E8M0
    for field, offset in enumerate(F16_FIELDS.get(name, ())):
        scales = random_f16(rng, count)
        # The second field takes the edge cases in another order, so that pairs of them differ.
        scales[: len(EDGE_F16)] = np.roll(np.array(EDGE_F16, np.uint16), 3 * field).view(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(count, 2)
    return blocks


def float_blocks(name: str, rng: np.random.Generator) -> np.ndarray:
    """Random bit patterns of F16 or BF16 without infinities and NaN, as one row of bytes."""
    exponent = {"F16": 0x7C00, "BF16": 0x7F80}[name]
    bits = rng.integers(0, 1 << 16, VALUES["float"], dtype=np.uint16)
    special = (bits & exponent) == exponent
    bits[special] &= np.uint16(0xFFFF ^ (exponent & -exponent))  # clear the exponent's last bit
    bits[: len(EDGE_F16)] = [b if (b & exponent) != exponent else 0 for b in EDGE_F16]
    return bits.astype("<u2").view(np.uint8).reshape(1, -1)


def main() -> None:
    """Writes the pair of files of every type."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--seed", type=int, default=20261123)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    for index, name in enumerate(["F16", "BF16", *F16_FIELDS, *E8M0]):
        rng = np.random.default_rng([args.seed, index])
        raw = float_blocks(name, rng) if name in ("F16", "BF16") else quantised_blocks(name, rng)
        values = dequantize(raw, GGMLQuantizationType[name]).astype("<f4").reshape(-1)
        assert np.isfinite(values).all(), name
        (args.out / f"{name}.bin").write_bytes(raw.tobytes())
        (args.out / f"{name}.f32.bin").write_bytes(values.tobytes())
        assert raw.nbytes + values.nbytes <= 64 * 1024, name
        print(f"{name}: {raw.nbytes} bytes, {values.size} values")


if __name__ == "__main__":
    main()
