import inspect
import pickle

import pytest

import webbkg
from webbkg import errors

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ALL)
def test_survives_pickling(kind):
    error = kind("jw01_rate.fits: SCI is 4x4 but 8x8 was needed; crop it")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.args == error.args


def test_all_are_listed():
    defined = {
        name
        for name, item in vars(errors).items()
        if inspect.isclass(item) and issubclass(item, Exception)
    }
    assert defined == set(errors.__all__)


def test_hierarchy():
    for kind in ALL:
        if kind is not errors.WebbkgWarning:
            assert issubclass(kind, errors.WebbkgError)
    assert issubclass(errors.WebbkgWarning, UserWarning)
    assert not issubclass(errors.WebbkgWarning, errors.WebbkgError)
    value_errors = {kind for kind in ALL if issubclass(kind, ValueError)}
    assert value_errors == {errors.ParameterError, errors.ShapeError, errors.InputError}
    assert issubclass(errors.MissingExtraError, ImportError)
    # Whoever catches a missing file must not catch a wrong one.
    assert not any(issubclass(kind, OSError) for kind in ALL)


def test_those_that_users_catch_are_at_the_top():
    assert webbkg.WebbkgError is errors.WebbkgError
    assert webbkg.WebbkgWarning is errors.WebbkgWarning
