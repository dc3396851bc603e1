import json
import subprocess
import sys

import pytest

import webbkg

PUBLIC = {
    "AverageParams",
    "DestripeParams",
    "Destriped",
    "Exposure",
    "ExposureHandle",
    "I4iParams",
    "MemoryHandle",
    "SkyReference",
    "SossParams",
    "SossSubtraction",
    "Subtraction",
    "Template",
    "WebbkgError",
    "WebbkgWarning",
    "WfssParams",
    "WfssSubtraction",
    "Window",
    "__version__",
    "average",
    "destripe",
    "i4i",
    "soss",
    "wfss",
}

HEAVY = ("numpy", "scipy", "astropy", "stdatamodels", "jwst", "numba", "asdf", "matplotlib")


def modules_after(code):
    """Names of the modules that a fresh interpreter has loaded after some code."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout))


def test_public_names():
    assert set(webbkg.__all__) == PUBLIC
    assert len(webbkg.__all__) == len(PUBLIC)
    assert dir(webbkg) == sorted(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name):
    value = getattr(webbkg, name)
    assert (value == "0.1.0") if name == "__version__" else (value.__name__ == name)


def test_star_import():
    names = {}
    exec("from webbkg import *", names)  # noqa: S102
    assert set(names) - {"__builtins__"} == PUBLIC


def test_average_is_the_function_not_the_module():
    from webbkg.api import average

    assert webbkg.average is average
    assert callable(webbkg.average)


def test_unknown_name():
    with pytest.raises(AttributeError, match=r"^module 'webbkg' has no attribute 'averge'$"):
        webbkg.averge  # noqa: B018


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert webbkg.__version__ == version("webbkg")


def test_import_is_light():
    loaded = modules_after("import webbkg; webbkg.WebbkgError; webbkg.__version__; dir(webbkg)")
    assert "webbkg.errors" in loaded
    assert not loaded & set(HEAVY)


def test_parameters_come_without_numba_and_data_models():
    loaded = modules_after("from webbkg import AverageParams; AverageParams()")
    assert not loaded & {"numba", "stdatamodels", "jwst", "astropy"}


def test_files_are_opened_without_data_models():
    loaded = modules_after("import webbkg.io.files, webbkg.io.products")
    assert not loaded & {"numba", "stdatamodels", "jwst"}
