"""What csrc/bindings.cpp exports."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = Sequence[int] | NDArray[np.integer]

def plan_pack(
    lengths: Ints, sequences: Ints, budget: int, max_segments: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]: ...
def work_table(cu_seqlens: Ints, block: int) -> NDArray[np.int32]: ...
