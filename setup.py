"""Builds the compiled core. Everything else about the package stands in pyproject.toml.

Environment switches (see `make debug`, `make portable` and `make sanitize`):

FASTWS_DEBUG=1      bounds and None checks on, object counters and assertions compiled in
FASTWS_SANITIZE=…   value for -fsanitize=, e.g. ``address,undefined``
FASTWS_MODULES=…    of the compiled modules only these, e.g. ``_inlet,_frames``
FASTWS_PORTABLE=1   nothing that only Linux has: all goes through the loop's transports, no file is in memory
FASTWS_COMPILED=1   compile nothing: an editable install beside what build_ext has put in its place
FASTWS_ANNOTATE=1   write Cython's annotated HTML beside each source
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("FASTWS_DEBUG", "") not in ("", "0")
sanitize = os.environ.get("FASTWS_SANITIZE", "")
is_compiled = os.environ.get("FASTWS_COMPILED", "") not in ("", "0")
chosen = [name for name in os.environ.get("FASTWS_MODULES", "").split(",") if name]
annotate = os.environ.get("FASTWS_ANNOTATE", "") not in ("", "0")

compile_args = ["-std=c11", "-Wall", "-Wno-unused-function", "-Wno-unreachable-code", "-Wno-sign-compare"]
link_args: list[str] = []
if debug:
    compile_args += ["-O1", "-g", "-UNDEBUG", "-DFASTWS_DEBUG=1"]
else:
    compile_args += ["-O3", "-g0", "-DFASTWS_DEBUG=0"]
if os.environ.get("FASTWS_PORTABLE", "") not in ("", "0"):
    compile_args += ["-DFASTWS_PORTABLE=1"]
if sanitize:
    compile_args += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={sanitize}"]

directives = {"language_level": 3, "embedsignature": False}
if debug:
    directives |= {"boundscheck": True, "wraparound": False, "initializedcheck": True, "nonecheck": True}

names = [
    "_frames",
    "_core",
    "_rings",
    "_market",
    "_kis",
    "_simulator",
    "_alerts",
    "_portfolios",
    "_relay",
    "_inlet",
    "_freshness",
]
if sys.platform == "linux":
    names.append("bench._client")  # built on epoll
extensions = [
    Extension(
        f"fastws.{name}",
        [f"fastws/{name.replace('.', '/')}.pyx"],
        depends=sorted(map(str, Path("fastws").glob("*/*.h"))) if name == "_inlet" else [],
        include_dirs=["fastws/include"] if name == "_inlet" else [],
        extra_compile_args=compile_args,
        extra_link_args=[*link_args, "-pthread"] if name == "_inlet" else link_args,
    )
    for name in names
    if not chosen or name in chosen
]

setup(
    ext_modules=cythonize(
        [] if is_compiled else extensions,
        compiler_directives=directives,
        annotate=annotate,
        force=debug or bool(sanitize),
        quiet="-q" in sys.argv,
        nthreads=os.cpu_count() or 1,
    )
)
