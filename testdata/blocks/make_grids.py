"""Writes the grids of ggml's IQ2, IQ3 and IQ1 types to `crates/kernels/src/grids.bin`.

The grids are part of the formats: every index in a block stands for the magnitudes (IQ1: the values -1, 0, 1) of eight or
four consecutive values. Source: the tables in gguf-py (`gguf.quants`). The file has one little-endian
16-bit word for each entry, grid after grid: eight digits of two bits, or four of four bits, the first value's digit lowest. A digit
is the index of a magnitude, the smallest first.
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import quants

# The order in the file. IQ1_M has the grid of IQ1_S.
GRIDS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S")
HERE = Path(__file__).parent


def words(name: str) -> np.ndarray:
    """A grid's entries, `[entries]`."""
    kind = getattr(quants, name)
    kind.init_grid()
    values = kind.grid.reshape(kind.grid_shape)
    digits = np.searchsorted(np.array(kind.grid_map, np.float32), values).astype(np.uint16)
    assert (np.array(kind.grid_map, np.float32)[digits] == values).all(), name
    shifts = np.arange(digits.shape[1], dtype=np.uint16) * np.uint16(16 // digits.shape[1])
    return np.bitwise_or.reduce(digits << shifts, axis=1)


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "../../crates/kernels/src/grids.bin", help="file to write")
    args = parser.parse_args()
    grids = [words(name) for name in GRIDS]
    args.out.write_bytes(np.concatenate(grids).astype("<u2").tobytes())
    for name, grid in zip(GRIDS, grids, strict=True):
        ascending = bool((np.diff(grid.astype(int)) > 0).all())
        print(f"{name}: {grid.size} entries, {'' if ascending else 'not '}ascending")


if __name__ == "__main__":
    main()
