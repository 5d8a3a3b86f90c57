"""`python -m cnnzoo.exporting.cpp` prints what to give a C++ compiler to build example.cpp with the installed torch."""

from pathlib import Path

import torch

from ._int8 import quiet

EXAMPLE = Path(__file__).with_name("example.cpp")


def arguments(source: str | Path = EXAMPLE) -> list[str]:
    """A compiler's arguments for a program that opens `aoti` files on the CPU; the name of the program is left to add.

    Args:
        source: The program's C++ file.
    """
    with quiet("torch.utils.cpp_extension"):  # it warns of a CUDA that it does not find, and that is not needed here
        from torch.utils.cpp_extension import include_paths, library_paths
    return [
        "-std=c++20",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        str(source),
        *(f"-I{folder}" for folder in include_paths("cpu")),
        *(option for folder in library_paths("cpu") for option in (f"-L{folder}", f"-Wl,-rpath,{folder}")),
        # A model's code asks for libtorch, the program itself does not. CUDA's libraries, which libtorch has where torch is
        # built for it, are left for the start of the program to find.
        *("-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", "-ltorch", "-ltorch_cpu", "-lc10"),
    ]


if __name__ == "__main__":
    print(" ".join(arguments()))
