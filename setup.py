"""Packaging; also what Dataflow takes: --setup_file ./setup.py.

The native core is built where a C compiler and libjpeg-turbo's headers are, and left out with one line where not.
ADACOMPRESS_NATIVE=require makes that an error, =skip leaves it out in any case. ADACOMPRESS_JPEG_ROOT names a folder
with include/ and lib/libjpeg.a to link in, as the wheels do.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.errors import CCompilerError, DistutilsError
from setuptools._distutils.sysconfig import customize_compiler

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "beam_adacompress" / "version.py").read_text()).group(1)

GCP = ["apache-beam[gcp]>=2.77,<3", "google-cloud-vision>=3.7"]
LITERT = ["ai-edge-litert>=2.0"]
REKOGNITION = ["boto3>=1.34"]
REPORT = ["matplotlib>=3.8"]
TRAIN = [*REPORT, "optuna>=4", "tensorboard>=2.18", "tensorflow>=2.18"]
# One wheel for all Pythons, but none for Linux on ARM.
DCT = ["jpeglib>=1.0.2,<1.1; sys_platform != 'linux' or platform_machine == 'x86_64'"]
DRIFT = ["river>=0.21"]
YAML = ["apache-beam[yaml]>=2.77,<3"]
DOCS = ["latex2mathml>=3.77", "mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.29"]
DEMO = ["scikit-image>=0.24", "scikit-learn>=1.4"]
TEST = [
    *DOCS,
    *GCP,
    *DEMO,
    *LITERT,
    *REKOGNITION,
    *DCT,
    *TRAIN,
    *DRIFT,
    *YAML,
    "axe-playwright-python>=0.1.6",
    "build>=1.2",
    "datasets>=3",
    "gcp-storage-emulator>=2024.8",
    "hypothesis>=6.100",
    "moto>=5",
    "mypy>=1.15",
    "pandas>=2",
    "playwright>=1.45",
    "psutil>=5.9",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "sybil>=8",
    "webdataset>=0.2",
]

CSRC = "beam_adacompress/jpeg/csrc"
JPEG_ROOT = os.environ.get("ADACOMPRESS_JPEG_ROOT")
WANTED = os.environ.get("ADACOMPRESS_NATIVE", "auto")

# Rounding must not depend on the processor: products and sums are not fused.
CORE = Extension(
    "beam_adacompress.jpeg._native",
    sources=sorted(str(path) for path in Path(CSRC).glob("*.c")),
    depends=sorted(str(path) for path in Path(CSRC).glob("*.h")),
    define_macros=[("Py_LIMITED_API", "0x030A0000"), ("NDEBUG", None)],
    extra_compile_args=["-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-fvisibility=hidden"],
    include_dirs=[f"{JPEG_ROOT}/include"] if JPEG_ROOT else [],
    extra_objects=[f"{JPEG_ROOT}/lib/libjpeg.a"] if JPEG_ROOT else [],
    # What is linked in stays inside: Pillow and others bring their own libjpeg.
    extra_link_args=["-Wl,--exclude-libs,ALL"] if JPEG_ROOT and sys.platform == "linux" else [],
    libraries=["m"] if JPEG_ROOT else ["jpeg", "m"],
    py_limited_api=True,
)
PROBE = """
#include <stdio.h>
#include <jpeglib.h>
#ifndef LIBJPEG_TURBO_VERSION
#error "this is another libjpeg"
#endif
int main(void) { struct jpeg_error_mgr errors; return jpeg_std_error(&errors) == 0; }
"""


def obstacle() -> str:
    """Why the native core cannot be built here; empty where it can."""
    if WANTED == "skip":
        return "ADACOMPRESS_NATIVE=skip"
    if sys.platform == "win32" or sys.implementation.name != "cpython":
        return "it is for CPython on Linux and macOS"
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch, "probe.c")
        probe.write_text(PROBE)
        try:
            objects = compiler.compile([str(probe)], output_dir=scratch, include_dirs=CORE.include_dirs)
            compiler.link_executable(
                [*objects, *CORE.extra_objects], str(Path(scratch, "probe")), libraries=CORE.libraries
            )
        except (CCompilerError, DistutilsError, OSError) as error:
            detail = f" ({str(error).splitlines()[0]})" if WANTED == "require" else ""
            return f"no working C compiler, or no headers of libjpeg-turbo (jpeglib.h){detail}"
    return ""


def extensions() -> list[Extension]:
    """The native core, if it is to be built and can be."""
    if not {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"} & set(sys.argv):
        return []  # nothing is compiled
    if why := obstacle():
        if WANTED == "require":
            sys.exit(f"beam-adacompress: the native core cannot be built: {why}")
        print(f"beam-adacompress: without the native core, everything works, slower: {why}", file=sys.stderr)
        return []
    return [CORE]


core = extensions()

setup(
    name="beam-adacompress",
    version=VERSION,
    description="Apache Beam transforms that make image corpora smaller for the machines that look at them",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    ext_modules=core,
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if core else {},
    packages=find_packages(include=["beam_adacompress", "beam_adacompress.*"]),
    package_data={
        "beam_adacompress": ["py.typed", "*.yaml", "templates/*", "jpeg/families/*.json", "policy/default/*"]
    },
    install_requires=[
        "apache-beam>=2.77,<3",
        "google-crc32c>=1.5",
        "jinja2>=3.1",
        "numpy>=1.26",
        "pillow>=11.2",
        "protobuf>=4.23",
        "pyarrow>=14",
        "shtab>=1.7",
        "simplejpeg>=1.8",
        "tomli>=2; python_version < '3.11'",
        "tomli-w>=1",
        "tqdm>=4.66",
    ],
    extras_require={
        "gcp": GCP,
        "rekognition": REKOGNITION,
        "litert": LITERT,
        "report": REPORT,
        "train": TRAIN,
        "dct": DCT,
        "drift": DRIFT,
        "yaml": YAML,
        "demo": DEMO,
        "docs": DOCS,
        "test": TEST,
        "all": [*GCP, *REKOGNITION, *LITERT, *TRAIN, *DCT, *DRIFT, *YAML, *DEMO],
    },
    entry_points={"console_scripts": ["adacompress=beam_adacompress.pipelines.cli:entry_point"]},
)
