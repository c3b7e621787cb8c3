"""Packaging; also what Dataflow takes: --setup_file ./setup.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "beam_adacompress" / "version.py").read_text()).group(1)

GCP = ["apache-beam[gcp]>=2.77,<3", "google-cloud-vision>=3.7"]
LITERT = ["ai-edge-litert>=2.0"]
REKOGNITION = ["boto3>=1.34"]
TRAIN = ["matplotlib>=3.8", "optuna>=4", "tensorboard>=2.18", "tensorflow>=2.18"]
# One wheel for all Pythons, but none for Linux on ARM.
DCT = ["jpeglib>=1.0.2,<1.1; sys_platform != 'linux' or platform_machine == 'x86_64'"]
DRIFT = ["river>=0.21"]
YAML = ["apache-beam[yaml]>=2.77,<3"]
DEMO = ["scikit-image>=0.24", "scikit-learn>=1.4"]
TEST = [
    *GCP,
    *DEMO,
    *LITERT,
    *REKOGNITION,
    *DCT,
    *TRAIN,
    *DRIFT,
    *YAML,
    "build>=1.2",
    "datasets>=3",
    "gcp-storage-emulator>=2024.8",
    "hypothesis>=6.100",
    "moto>=5",
    "mypy>=1.15",
    "pandas>=2",
    "psutil>=5.9",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "webdataset>=0.2",
]

setup(
    name="beam-adacompress",
    version=VERSION,
    description="Apache Beam transforms that make image corpora smaller for the machines that look at them",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["beam_adacompress", "beam_adacompress.*"]),
    package_data={
        "beam_adacompress": ["py.typed", "*.yaml", "templates/*.html", "jpeg/families/*.json", "policy/default/*"]
    },
    install_requires=[
        "apache-beam>=2.77,<3",
        "google-crc32c>=1.5",
        "jinja2>=3.1",
        "numpy>=1.26",
        "pillow>=11.2",
        "protobuf>=4.23",
        "pyarrow>=14",
        "simplejpeg>=1.8",
        "tqdm>=4.66",
    ],
    extras_require={
        "gcp": GCP,
        "rekognition": REKOGNITION,
        "litert": LITERT,
        "train": TRAIN,
        "dct": DCT,
        "drift": DRIFT,
        "yaml": YAML,
        "demo": DEMO,
        "test": TEST,
        "all": [*GCP, *REKOGNITION, *LITERT, *TRAIN, *DCT, *DRIFT, *YAML, *DEMO],
    },
    entry_points={"console_scripts": ["adacompress=beam_adacompress.pipelines.cli:entry_point"]},
)
