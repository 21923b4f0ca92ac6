"""How fast this machine multiplies matrices at this moment: it says whether times of this minute can be trusted.

Does not see: why. A busy machine and a hot processor look alike.
"""

from __future__ import annotations

import time

SIZE = 1024
"""Rows of the square matrices: the product takes some hundredths of a second."""
_ROUNDS = 3


def numpy_gemm_flops_per_s() -> float:
    """Best rate of a product of square matrices in float32. numpy is imported in the call, after what is measured.

    Memory: 12 MiB.
    """
    import numpy as np

    left, right, product = (np.ones((SIZE, SIZE), np.float32) for _ in range(3))
    times_s = []
    for _ in range(_ROUNDS + 1):  # the first starts the threads
        start_s = time.perf_counter()
        np.matmul(left, right, out=product)
        times_s.append(time.perf_counter() - start_s)
    return float(2 * SIZE**3 / min(times_s[1:]))
