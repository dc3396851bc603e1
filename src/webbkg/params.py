"""
Parameters, each declared once.

A method's parameters are a frozen, keyword-only dataclass derived from `Params`, its fields made
by `param`. An object that exists is valid. The command line's options, the pipeline step's
``spec``, the TOML table and the table in the docs are all read off the declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import numbers
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from webbkg.errors import ParameterError

__all__ = ["Field", "Params", "param", "spec_of", "toml_of", "unknown_name"]


@dataclass(frozen=True)
class Field:
    """
    Declaration of one parameter.

    Parameters
    ----------
    name : str
        Name, as in Python; dashes replace underscores on the command line.
    kind : type
        ``bool``, ``int``, ``float`` or ``str``.
    optional : bool
        Whether ``None`` is allowed.
    default : object
        Default value.
    doc : str
        One sentence.
    unit : str
        Unit of the value, empty if it has none.
    gt, ge, le : float or None
        Limits: greater than, at least, at most.
    choices : tuple of str
        Allowed values, empty if any.
    """

    name: str
    kind: type[Any]
    optional: bool
    default: Any
    doc: str
    unit: str = ""
    gt: float | None = None
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """Name of the command-line option."""
        return "--" + self.name.replace("_", "-")

    @property
    def limits(self) -> str:
        """The allowed values in words, empty if there is no limit."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = {"greater than": self.gt, "at least": self.ge, "at most": self.le}
        return " and ".join(
            f"{word} {bound:g}" for word, bound in words.items() if bound is not None
        )

    def check(self, value: Any) -> Any:
        """
        Return the value as the declared type, or say what is wrong with it.

        Parameters
        ----------
        value : object
            Candidate value.

        Returns
        -------
        object
            The value; whole numbers given for a ``float`` become one.

        Raises
        ------
        ParameterError
            If the value has the wrong type or is out of its limits.
        """
        if value is None and self.optional:
            return None
        if self.kind in (int, float) and not isinstance(value, bool):
            # Whole numbers will do for float, and numpy's numbers for Python's.
            allowed = numbers.Integral if self.kind is int else numbers.Real
            value = self.kind(value) if isinstance(value, allowed) else value
        if type(value) is not self.kind:
            raise ParameterError(
                f"{self.name} must be of type {self.kind.__name__}, got {value!r}; {self.doc}"
            )
        if self.kind is float and not math.isfinite(value):
            raise ParameterError(f"{self.name} must be finite, got {value!r}")
        inside = (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.le is None or value <= self.le)
            and (not self.choices or value in self.choices)
        )
        if not inside:
            raise ParameterError(f"{self.name} must be {self.limits}, got {value!r}")
        return value


def param(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    gt: float | None = None,
    ge: float | None = None,
    le: float | None = None,
    choices: Iterable[str] = (),
) -> Any:
    """
    Declare one field of a `Params` class.

    Parameters
    ----------
    default : object
        Default value; the only place it is written.
    doc : str
        One sentence, used as help everywhere.
    unit : str, optional
        Unit of the value.
    gt, ge, le : float, optional
        Limits: greater than, at least, at most.
    choices : iterable of str, optional
        Allowed values.

    Returns
    -------
    dataclasses.Field
        The field.
    """
    metadata = {"doc": doc, "unit": unit, "gt": gt, "ge": ge, "le": le, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Params:
    """
    Base of all parameter classes; checks every field when an object is made.

    Raises
    ------
    ParameterError
        If a value has the wrong type or is out of its limits.
    """

    #: Table of the parameters in a TOML file.
    table: ClassVar[str] = ""
    #: Named sets of values that replace defaults.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for item in self.fields():
            # The only write to a frozen object: at birth, to normalise the type.
            object.__setattr__(self, item.name, item.check(getattr(self, item.name)))

    @classmethod
    def fields(cls) -> tuple[Field, ...]:
        """Declarations of all parameters, in order."""
        hints = typing.get_type_hints(cls)
        result = []
        for item in dataclasses.fields(cls):
            hint = hints[item.name]
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            kind = next(k for k in kinds if k is not type(None))
            result.append(
                Field(item.name, kind, type(None) in kinds, item.default, **item.metadata)
            )
        return tuple(result)

    @classmethod
    def build(
        cls,
        *,
        preset: str | None = None,
        config: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Self:
        """
        Make parameters from, in this order, defaults, preset, TOML file and overrides.

        Parameters
        ----------
        preset : str, optional
            Name of a preset.
        config : pathlib.Path, optional
            TOML file with a table named after the method; it may name a ``preset`` too.
        overrides : mapping, optional
            Values given by the user last.

        Returns
        -------
        Params
            Valid parameters.

        Raises
        ------
        ParameterError
            If a name or value is not allowed.
        """
        from_file = cls._read_table(config) if config is not None else {}
        file_preset = from_file.pop("preset", None)
        values: dict[str, Any] = {}
        chosen = preset or file_preset
        if chosen is not None:
            if not isinstance(chosen, str) or chosen not in cls.presets:
                known = ", ".join(sorted(cls.presets)) or "none"
                raise ParameterError(f"preset must be one of {known}, got {chosen!r}")
            values.update(cls.presets[chosen])
        values.update(from_file)
        values.update(overrides or {})
        for name in values:
            cls._check_name(name, f" in {config}" if name in from_file else "")
        return cls(**values)

    def changed(self, **values: Any) -> Self:
        """
        Make parameters that differ in some values.

        Parameters
        ----------
        **values
            New values by name.

        Returns
        -------
        Params
            Valid parameters.

        Raises
        ------
        ParameterError
            If a name or value is not allowed.
        """
        for name in values:
            self._check_name(name)
        return dataclasses.replace(self, **values)

    @classmethod
    def _check_name(cls, name: str, where: str = "") -> None:
        known = sorted(item.name for item in cls.fields())
        if name not in known:
            raise unknown_name(f"{cls.table} has no parameter", name, known, where)

    @classmethod
    def _read_table(cls, path: Path) -> dict[str, Any]:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ParameterError(f"{path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ParameterError(f"{path}: not a valid TOML file ({error})") from error
        table = tables.get(cls.table)
        if not isinstance(table, dict):
            raise ParameterError(f"{path}: needs a table [{cls.table}], got {sorted(tables)}")
        return dict(table)

    def as_dict(self) -> dict[str, Any]:
        """All values by name."""
        return {item.name: getattr(self, item.name) for item in self.fields()}


def unknown_name(
    complaint: str, name: str, known: Iterable[str], where: str = ""
) -> ParameterError:
    """
    Make the error of a name that is not known.

    Parameters
    ----------
    complaint : str
        Start of the message, such as ``there is no preset``.
    name : str
        The name.
    known : iterable of str
        Names that are known; the nearest one is suggested.
    where : str, optional
        Where the name stands.

    Returns
    -------
    ParameterError
        To be raised.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ParameterError(f"{complaint} {name!r}{where}{hint}; known are {', '.join(names)}")


def toml_of(params: Params) -> str:
    """
    Write parameters as the TOML table that `Params.build` reads.

    Parameters
    ----------
    params : Params
        Parameters.

    Returns
    -------
    str
        TOML text; parameters without a value are written as comments.
    """
    lines = [f"[{params.table}]"]
    for item in params.fields():
        value = getattr(params, item.name)
        lines.append(f"# {item.doc}" + (f" [{item.unit}]" if item.unit else ""))
        if value is None:
            lines.append(f"# {item.name} =")
        elif isinstance(value, bool):
            lines.append(f"{item.name} = {str(value).lower()}")
        elif isinstance(value, str):
            # JSON escapes strings as TOML does, but for one character.
            quoted = json.dumps(value).replace("\x7f", "\\u007f")
            lines.append(f"{item.name} = {quoted}")
        else:
            lines.append(f"{item.name} = {value!r}")
    return "\n".join(lines) + "\n"


def spec_of(
    params_class: type[Params],
    *,
    defaults: Mapping[str, Any] | None = None,
    leave_out: Iterable[str] = (),
) -> str:
    """
    Write the declarations as a configuration spec of an stpipe step.

    Parameters
    ----------
    params_class : type
        Parameter class.
    defaults : mapping, optional
        Defaults of this step where they differ, such as those of a preset.
    leave_out : iterable of str, optional
        Parameters the step does not have.

    Returns
    -------
    str
        Spec text, a line for each parameter.
    """
    words = {bool: "boolean", int: "integer", float: "float", str: "string"}
    replaced = dict(defaults or {})
    skipped = set(leave_out)
    lines = []
    for item in params_class.fields():
        if item.name in skipped:
            continue
        default = replaced.get(item.name, item.default)
        text = f"'{default}'" if isinstance(default, str) else repr(default)
        # Limits are checked by the class itself, with a better message.
        if item.choices:
            options = ", ".join(f"'{choice}'" for choice in item.choices)
            kind = f"option({options}, default={text})"
        else:
            kind = f"{words[item.kind]}(default={text})"
        lines.append(f"    {item.name} = {kind}  # {item.doc}")
    return "\n".join(lines) + "\n"
