"""Parts of compiled CPU kernels: vectors, functions of them, loops on torch's threads. Needs numba at first use."""
