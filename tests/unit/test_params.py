import dataclasses
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from configobj import ConfigObj
from stpipe import Step, config_parser

from webbkg.errors import ParameterError
from webbkg.methods.average import AverageParams
from webbkg.params import Params, param, spec_of, toml_of


@dataclass(frozen=True, kw_only=True)
class DemoParams(Params):
    """One parameter of each kind."""

    table: ClassVar[str] = "demo"
    presets: ClassVar[dict] = {"quick": {"n": 1, "mode": "b"}, "exact": {"width": 0.5}}

    width: float = param(2.0, "Width of it, in all.", unit="px", gt=0, le=10)
    n: int = param(3, "How many.", ge=1)
    cut: float | None = param(None, "Where to cut.", unit="DN/s")
    mode: str = param("a", "How it is done.", choices=("a", "b"))
    label: str = param("x, y", "What it is called.")
    on: bool = param(False, "Whether it is done.")


EVERYTHING = {"width": 0.125, "n": 7, "cut": -1e-5, "mode": "b", "label": "p", "on": True}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0.0}, "width must be greater than 0 and at most 10, got 0.0"),
        ({"width": 10.5}, "width must be greater than 0 and at most 10, got 10.5"),
        ({"width": float("nan")}, "width must be finite, got nan"),
        ({"width": float("inf")}, "width must be finite, got inf"),
        (
            {"width": "3"},
            "width must be of type float, got '3'; Width of it, in all.",
        ),
        ({"width": None}, "width must be of type float, got None; Width of it, in all."),
        ({"width": True}, "width must be of type float, got True; Width of it, in all."),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 2.0}, "n must be of type int, got 2.0; How many."),
        ({"n": True}, "n must be of type int, got True; How many."),
        ({"cut": float("-inf")}, "cut must be finite, got -inf"),
        ({"mode": "c"}, "mode must be one of a, b, got 'c'"),
        ({"mode": "A"}, "mode must be one of a, b, got 'A'"),
        ({"mode": None}, "mode must be of type str, got None; How it is done."),
        ({"on": 1}, "on must be of type bool, got 1; Whether it is done."),
        ({"on": "yes"}, "on must be of type bool, got 'yes'; Whether it is done."),
    ],
)
def test_values_that_no_data_could_make_right(values, message):
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        DemoParams(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sigma": 0}, "sigma must be greater than 0, got 0.0"),
        ({"maxiters": 0}, "maxiters must be at least 1, got 0"),
        ({"clip": "mad"}, "clip must be one of auto, std, got 'mad'"),
        ({"dq": "and"}, "dq must be one of quorum, or, keep, got 'and'"),
        ({"errors": "drop"}, "errors must be one of propagate, keep, got 'drop'"),
        ({"min_coverage": 0}, "min_coverage must be at least 1, got 0"),
        ({"max_memory": 0}, "max_memory must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_limits_of_average(values, message):
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        AverageParams(**values)


def test_unknown_flag_name():
    with pytest.raises(ParameterError, match=r"^unknown data-quality flag 'BAD'; known are DO_NOT"):
        AverageParams(bad_flags="BAD")


def test_limits_are_inside():
    assert DemoParams(width=10.0, n=1).width == 10.0
    assert DemoParams(cut=None).cut is None


def test_whole_numbers_become_floats():
    assert type(DemoParams(width=3).width) is float
    assert type(DemoParams(cut=3).cut) is float


@pytest.mark.parametrize("number", [np.float64(2.5), np.float32(2.5), np.int64(2)])
def test_numbers_of_numpy_are_numbers(number):
    assert AverageParams(sigma=number).sigma == number


def test_parameters_are_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DemoParams().width = 3.0
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        DemoParams(3.0)


def test_defaults_of_average():
    assert AverageParams().as_dict() == {
        "sigma": 3.0,
        "maxiters": None,
        "clip": "auto",
        "mask_sources": True,
        "template_noise": "auto",
        "dq": "quorum",
        "errors": "propagate",
        "bad_flags": "DO_NOT_USE,NON_SCIENCE,REFERENCE_PIXEL,SATURATED",
        "min_coverage": 1,
        "max_memory": 256,
        "threads": None,
        "save_combined_background": False,
    }


def test_number_of_threads(monkeypatch):
    assert AverageParams(threads=3).n_threads == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5, 7, 9})
    assert AverageParams().n_threads == 5
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert AverageParams().n_threads == 1


def test_pipeline_preset():
    preset = AverageParams.build(preset="pipeline")
    assert preset == AverageParams(
        sigma=3.0,
        clip="std",
        dq="or",
        errors="keep",
        bad_flags="NONE",
        min_coverage=1,
        template_noise="raw",
    )


def test_every_preset_is_valid():
    for cls in (AverageParams, DemoParams):
        for name, values in cls.presets.items():
            made = cls.build(preset=name)
            assert {key: getattr(made, key) for key in values} == values


def test_unknown_preset():
    with pytest.raises(ParameterError, match=r"^preset must be one of exact, quick, got 'slow'$"):
        DemoParams.build(preset="slow")
    with pytest.raises(ParameterError, match=r"^preset must be one of none, got 'slow'$"):
        Params.build(preset="slow")


def test_order_of_sources(tmp_path):
    """Default, preset, file, what the user says last."""
    config = tmp_path / "a.toml"
    config.write_text('[demo]\npreset = "quick"\nn = 5\nlabel = "file"\n')
    assert DemoParams.build(config=config) == DemoParams(n=5, mode="b", label="file")
    assert DemoParams.build(config=config, preset="exact") == DemoParams(
        width=0.5, n=5, label="file"
    )
    assert DemoParams.build(config=config, overrides={"n": 9, "mode": "a"}) == DemoParams(
        n=9, mode="a", label="file"
    )
    assert DemoParams.build() == DemoParams()


def test_other_tables_of_the_file_are_left_alone(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("[demo]\nn = 5\n[average]\nsigma = 2\n")
    assert DemoParams.build(config=config).n == 5
    assert AverageParams.build(config=config).sigma == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[other]\nn = 5\n", "needs a table [demo], got ['other']"),
        ("demo = 3\n", "needs a table [demo], got ['demo']"),
        ("", "needs a table [demo], got []"),
        ("[demo\n", "not a valid TOML file (Expected ']' at the end of a table declaration "),
        ("[demo]\nn = \n", "not a valid TOML file (Invalid value "),
        (b"[demo]\nlabel = '\xff'\n", "not a valid TOML file ('utf-8' codec can't decode byte "),
    ],
)
def test_bad_file(tmp_path, text, message):
    config = tmp_path / "a.toml"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParameterError, match=f"^{re.escape(f'{config}: {message}')}"):
        DemoParams.build(config=config)


def test_missing_file(tmp_path):
    config = tmp_path / "a.toml"
    message = f"{config}: cannot be read (No such file or directory)"
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        DemoParams.build(config=config)


def test_unknown_names(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("[demo]\nwith = 5\n")
    known = "cut, label, mode, n, on, width"
    near = "(did you mean 'width'?)"
    message = f"demo has no parameter 'with' in {config} {near}; known are {known}"
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        DemoParams.build(config=config)
    message = f"demo has no parameter 'wdth' {near}; known are {known}"
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        DemoParams.build(overrides={"wdth": 1.0})
    message = f"demo has no parameter 'zzz'; known are {known}"
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        DemoParams.build(overrides={"zzz": 1.0})


def test_bad_value_in_a_file(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("[demo]\nn = 0\n")
    with pytest.raises(ParameterError, match=r"^n must be at least 1, got 0$"):
        DemoParams.build(config=config)


@pytest.mark.parametrize("value", ["['quick']", "{a = 1}"])
def test_preset_of_a_wrong_type_in_a_file(tmp_path, value):
    config = tmp_path / "a.toml"
    config.write_text(f"[demo]\npreset = {value}\n")
    with pytest.raises(ParameterError, match=r"^preset must be one of exact, quick, got "):
        DemoParams.build(config=config)


@pytest.mark.parametrize(
    "values",
    [
        {},
        EVERYTHING,
        {"width": 1e-07, "cut": 1e22, "n": 10**12},
        {"label": 'a "quoted" \\ backslash, # no comment, é'},
        {"label": ""},
    ],
)
def test_toml_round_trip(tmp_path, values):
    config = tmp_path / "a.toml"
    params = DemoParams(**values)
    config.write_text(toml_of(params), encoding="utf-8")
    assert DemoParams.build(config=config) == params


@pytest.mark.parametrize("label", ["a\nb", "a\tb\x01", "\x7f"])
def test_toml_round_trip_of_control_characters(tmp_path, label):
    config = tmp_path / "a.toml"
    config.write_text(toml_of(DemoParams(label=label)), encoding="utf-8")
    assert DemoParams.build(config=config).label == label


def test_toml_of_average(tmp_path):
    for params in (
        AverageParams(),
        AverageParams.build(preset="pipeline"),
        AverageParams(sigma=2.5, maxiters=3, threads=2, save_combined_background=True),
    ):
        config = tmp_path / "a.toml"
        config.write_text(toml_of(params))
        assert AverageParams.build(config=config) == params


def test_toml_text():
    assert toml_of(DemoParams(on=True)) == (
        "[demo]\n"
        "# Width of it, in all. [px]\nwidth = 2.0\n"
        "# How many.\nn = 3\n"
        "# Where to cut. [DN/s]\n# cut =\n"
        '# How it is done.\nmode = "a"\n'
        '# What it is called.\nlabel = "x, y"\n'
        "# Whether it is done.\non = true\n"
    )


def parsed(spec, given=()):
    """Read a spec as stpipe reads those of its steps."""

    class Demo(Step):
        pass

    Demo.spec = spec
    config = ConfigObj(list(given))
    config_parser.validate(config, config_parser.load_spec_file(Demo))
    return dict(config)


@pytest.mark.parametrize("cls", [DemoParams, AverageParams])
def test_spec_gives_the_defaults(cls):
    values = parsed(spec_of(cls))
    assert values == cls().as_dict()
    assert cls(**values) == cls()


def test_spec_of_other_defaults():
    preset = AverageParams.presets["pipeline"]
    values = parsed(spec_of(AverageParams, defaults=preset, leave_out=["threads", "max_memory"]))
    assert "threads" not in values
    assert "max_memory" not in values
    assert AverageParams(**values) == AverageParams.build(preset="pipeline")


def test_spec_takes_what_users_write():
    given = ["width = 4", "n = 8", "cut = -2.5", "mode = b", "label = z", "on = True"]
    values = parsed(spec_of(DemoParams), given)
    assert DemoParams(**values) == DemoParams(
        width=4.0, n=8, cut=-2.5, mode="b", label="z", on=True
    )


def test_spec_text():
    assert spec_of(DemoParams, leave_out=["cut"]) == (
        "    width = float(default=2.0)  # Width of it, in all.\n"
        "    n = integer(default=3)  # How many.\n"
        "    mode = option('a', 'b', default='a')  # How it is done.\n"
        "    label = string(default='x, y')  # What it is called.\n"
        "    on = boolean(default=False)  # Whether it is done.\n"
    )


def test_field_in_words():
    fields = {field.name: field for field in DemoParams.fields()}
    assert list(fields) == ["width", "n", "cut", "mode", "label", "on"]
    assert [field.option for field in AverageParams.fields()][-1] == "--save-combined-background"
    assert [field.limits for field in fields.values()] == [
        "greater than 0 and at most 10",
        "at least 1",
        "",
        "one of a, b",
        "",
        "",
    ]
    assert fields["cut"].optional
    assert fields["cut"].kind is float
    assert not fields["width"].optional


def test_every_parameter_is_documented():
    for field in AverageParams.fields():
        assert field.doc.endswith(".")
