"""Packages made on the spot: wheels, and source distributions with a part in C that compiles or does not."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

EXTENSION = """
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *none) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "@NAME@", "", -1, methods};
PyMODINIT_FUNC PyInit_@NAME@(void) { return PyModule_Create(&module); }
"""
BROKEN = '#error "the sea is rough today"\n'


def make_wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """Make a wheel of one module that says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = "".join(
        [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {r}\n" for r in requires)]
    )
    contents = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(file, "w") as packed:
        for path, content in {**contents, f"{info}/RECORD": record}.items():
            packed.writestr(path, content)
    return file


def make_source(folder: Path, name: str, version: str, code: str) -> Path:
    """Make a source distribution of one module written in C."""
    setup = f"from setuptools import Extension, setup\nsetup(ext_modules=[Extension({name!r}, ['module.c'])])\n"
    project = f'[build-system]\nrequires = ["setuptools>=61"]\n[project]\nname = "{name}"\nversion = "{version}"\n'
    files = {
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": project + "[tool.setuptools]\npy-modules = []\n",
        "setup.py": setup,
        "module.c": code.replace("@NAME@", name),
    }
    file = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(file, "w:gz") as packed:
        for path, content in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(content.encode())
            packed.addfile(entry, io.BytesIO(content.encode()))
    return file
