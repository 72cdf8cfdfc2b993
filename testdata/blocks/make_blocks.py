"""Writes seeded random blocks of each ggml tensor type, and their values as gguf-py dequantises them.

For a type T this makes, in the output folder (default: the script's own),

* `T.bin`      the raw blocks, one after another, as in a GGUF tensor;
* `T.f32.bin`  their values, little-endian float32, from `gguf.quants.dequantize` (Q1_0 and Q2_0: from
             llama.cpp's formula, since gguf-py lacks them).

Every bit of the codes and sub-block scales is random; the float16 fields (`d`, `m`, `dmin`) are drawn
as finite numbers of the size real weights have, and the first few blocks hold the edge cases: zero,
negative zero, the smallest and largest subnormals, the smallest normal, the largest float16, and codes that are all 0
or all 1 bits. Scales of one byte are powers of two of the size real weights have, or any byte, and their
own edge cases. Nothing is infinite or NaN, so the dequantised values may be compared bit for bit.
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
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "Q1_0": (0,),
    "Q2_0": (0,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "IQ1_S": (0,),
}
# Types whose one float16 is spread over the high nibbles of four bytes, the lowest nibble first: where these bytes are.
SPREAD_F16 = {"IQ1_M": (49, 51, 53, 55)}
# Types whose first bytes are scales of one byte each: how many, and whether they are E8M0 (else E4M3).
BYTE_SCALES = {"MXFP4": (1, True), "NVFP4": (4, False)}
# The order decides each type's random numbers: new types go at the end.
TYPES = (
    "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4",
    "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "NVFP4", "Q1_0", "Q2_0",
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M",
)  # fmt: skip
# Values per file: raw bytes and float32 together stay under 64 KiB.
VALUES = {"quantised": 12_032, "float": 10_240}
# Valid scales and minima that random draws would rarely produce.
EDGE_F16 = (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF)
# The two that are subnormal, the smallest normal, the largest whose values are all finite, and 1.
EDGE_E8M0 = (0, 1, 2, 252, 128)
# Zero, the smallest and largest subnormals, the smallest normal, the largest, what stands for NaN elsewhere and is zero here, and
# bytes with the highest bit, which has no meaning.
EDGE_E4M3 = (0, 1, 7, 8, 126, 127, 128, 255)
# `(values, bytes)` of the blocks that gguf-py does not dequantise.
OWN_SIZES = {"Q1_0": (128, 18), "Q2_0": (64, 18)}


def random_f16(rng: np.random.Generator, n: int) -> np.ndarray:
    """`n` finite float16 scales: log-uniform from 2^-14 to 2^3, either sign."""
    return (np.exp2(rng.uniform(-14, 3, n)) * rng.choice([-1.0, 1.0], n)).astype(np.float16)


def quantised_blocks(name: str, rng: np.random.Generator) -> np.ndarray:
    """Blocks of a block-quantised type, `[blocks, bytes per block]`."""
    values, size = OWN_SIZES.get(name) or GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = VALUES["quantised"] // values
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    blocks[len(EDGE_F16)] = 0x00
    blocks[len(EDGE_F16) + 1] = 0xFF
    if name in BYTE_SCALES:
        scales, e8m0 = BYTE_SCALES[name]
        edges = EDGE_E8M0 if e8m0 else EDGE_E4M3
        draw = (114, 132) if e8m0 else (0, 256)
        blocks[:, :scales] = rng.integers(*draw, (count, scales))
        for field in range(scales):
            blocks[: len(edges), field] = np.roll(edges, field)
    for field, offset in enumerate(F16_FIELDS.get(name, ())):
        scales = random_f16(rng, count)
        # The second field takes the edge cases in another order, so that pairs of them differ.
        scales[: len(EDGE_F16)] = np.roll(np.array(EDGE_F16, np.uint16), 3 * field).view(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(count, 2)
    if name in SPREAD_F16:
        scales = random_f16(rng, count)
        scales[: len(EDGE_F16)] = np.array(EDGE_F16, np.uint16).view(np.float16)
        for k, offset in enumerate(SPREAD_F16[name]):
            nibbles = (scales.view(np.uint16) >> (4 * k) & 15).astype(np.uint8)
            blocks[:, offset] = blocks[:, offset] & 15 | nibbles << 4
    return blocks


def float_blocks(name: str, rng: np.random.Generator) -> np.ndarray:
    """Random bit patterns of F16 or BF16 without infinities and NaN, as one row of bytes."""
    exponent = {"F16": 0x7C00, "BF16": 0x7F80}[name]
    bits = rng.integers(0, 1 << 16, VALUES["float"], dtype=np.uint16)
    special = (bits & exponent) == exponent
    bits[special] &= np.uint16(0xFFFF ^ (exponent & -exponent))  # clear the exponent's last bit
    bits[: len(EDGE_F16)] = [b if (b & exponent) != exponent else 0 for b in EDGE_F16]
    return bits.astype("<u2").view(np.uint8).reshape(1, -1)


def signs(blocks: np.ndarray) -> np.ndarray:
    """Values of Q1_0, as llama.cpp's `dequantize_row_q1_0`: a bit is the scale, or the scale negated."""
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return np.where(np.unpackbits(blocks[:, 2:], axis=1, bitorder="little") == 1, d, -d)


def two_bits(blocks: np.ndarray) -> np.ndarray:
    """Values of Q2_0, as llama.cpp's `dequantize_row_q2_0`: `(q - 1) * d`, four codes to a byte, the lowest bits first."""
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = (blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    return d * (codes.reshape(len(blocks), -1).astype(np.float32) - 1)


# Types that gguf-py does not dequantise.
OWN = {"Q1_0": signs, "Q2_0": two_bits}


def main() -> None:
    """Writes the pair of files of every type."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--seed", type=int, default=20261123)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    for index, name in enumerate(TYPES):
        rng = np.random.default_rng([args.seed, index])
        raw = float_blocks(name, rng) if name in ("F16", "BF16") else quantised_blocks(name, rng)
        own = OWN.get(name)
        values = own(raw) if own else dequantize(raw, GGMLQuantizationType[name])
        values = values.astype("<f4").reshape(-1)
        assert np.isfinite(values).all(), name
        (args.out / f"{name}.bin").write_bytes(raw.tobytes())
        (args.out / f"{name}.f32.bin").write_bytes(values.tobytes())
        assert raw.nbytes + values.nbytes <= 64 * 1024, name
        print(f"{name}: {raw.nbytes} bytes, {values.size} values")


if __name__ == "__main__":
    main()
