"""Quantises a committed set of values with gguf-py, for the types that it can quantise.

The values are the first 4,096 of `Q6_K.f32.bin`, with negative zeros made positive: blocks of edge cases, then ordinary
blocks. For each type T this makes `T.quantized.bin`, the bytes of `gguf.quants.quantize`. Run `make_blocks.py` first.
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

VALUES = 4096


def main() -> None:
    """Writes the file of every type."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to read from and write to")
    args = parser.parse_args()

    values = np.fromfile(args.out / "Q6_K.f32.bin", "<f4")[:VALUES].reshape(1, -1)
    values += 0  # keep only +0: NumPy's instruction set decides which of two zeros is a block's minimum
    for name in ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]:
        with np.errstate(over="ignore", invalid="ignore"):  # the edge cases overflow float16
            raw = quantize(values, GGMLQuantizationType[name])
        (args.out / f"{name}.quantized.bin").write_bytes(raw.tobytes())
        print(f"{name}: {raw.nbytes} bytes")


if __name__ == "__main__":
    main()
