"""Digests that decide whether a design is the same as in an earlier process: they cover everything that affects rows.

A custom part or a metric is digested by its content and the objects to which it refers:

- a function by its code, its defaults, the values that it has closed over, and the globals that its code names. These
  are digested in the same way if they come from the user's modules, cells and scripts;
- a class by its bases and all its attributes; an object by its class and the state that pickle would write, so an array
  or a DataFrame by its content;
- an object that an installed package or Python itself defines, by its name and the version;
- an object that imsim defines, by its name. `program` digests all of imsim's code.

Files that the code reads, environment variables, and names that the code composes (`getattr(module, name)`) are not
covered.

No library does this. joblib.hash digests functions by name, without their code. cloudpickle's bytes contain a random
number for each class of `__main__`, file names, and sets in arbitrary order, so they differ between processes.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import importlib
import inspect
import json
import platform
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

from pydantic import BaseModel

from imsim.scenario import Scenario

# The packages that make rows and metrics.
_SOURCES = ("core", "scenario", "sim", "results", "analysis")

# Fields on which the rows do not depend, and the seed, which is a separate part of the key.
_LEFT_OUT = {"name", "title", "seed"}

_MISSING = object()
_CACHED = type(functools.cache(len))
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE


class NotComparableError(Exception):
    """An object cannot be compared across processes; the text names it."""


def design(scenario: Scenario) -> str:
    """Return the digest of a scenario, without its name, title and seed. Raises: NotComparableError."""
    fields = {name: getattr(scenario, name) for name in type(scenario).model_fields if name not in _LEFT_OUT}
    return _digest(fields, f"a custom part of {scenario.name}")


def function(one: Callable[..., object]) -> str:
    """Return the digest of a metric's function. Raises: NotComparableError."""
    return _digest(one, f"metric {getattr(one, '__name__', type(one).__name__)}")


@functools.cache
def program() -> str:
    """Return the digest of the code that makes runs. Another version or a changed file gives another digest."""
    root = Path(__file__).parents[1]
    sha = hashlib.sha256()
    for name in _SOURCES:
        for file in sorted((root / name).rglob("*.py")):
            sha.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()


def _digest(value: object, of: str) -> str:
    try:
        return _hash(_Walk().plain(value))
    except NotComparableError as error:
        raise NotComparableError(f"{of} refers to {error}") from None
    except RecursionError:
        raise NotComparableError(f"{of} refers to an object that is nested too deeply") from None


def _hash(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


class _Walk:
    """A traversal of a value and the objects to which it refers. Each object is visited once."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[object, str]] = {}  # by id; the reference keeps the id from being reused
        self._under_way: dict[int, int] = {}  # id -> depth

    def plain(self, value: Any) -> object:
        """Return a JSON value for an object. Equal objects have equal values in every process."""
        if value is None or isinstance(value, bool) or type(value) in (int, float, str):
            return value
        if isinstance(value, bytes | bytearray):
            return ["bytes", hashlib.sha256(value).hexdigest()]
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._under_way:
            return ["again", self._under_way[id(value)]]
        self._under_way[id(value)] = len(self._under_way)
        try:
            found = _hash(self._parts(value))
        finally:
            del self._under_way[id(value)]
        self._done[id(value)] = (value, found)
        return found

    def _parts(self, value: Any) -> object:
        if type(value) in (dict, MappingProxyType):
            # Mappings are equal in any order.
            return ["mapping", *sorted(([self.plain(key), self.plain(item)] for key, item in value.items()), key=repr)]
        if type(value) in (list, tuple):
            return [self.plain(item) for item in value]
        if type(value) in (set, frozenset):
            return ["set", *sorted((self.plain(item) for item in value), key=repr)]
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, ModuleType):
            if where := _where(value.__name__):
                return ["module", *where]
            raise NotComparableError(f"the module {value.__name__} as a whole, not by a name in it")
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if inspect.ismethod(value):
            return ["method", self.plain(value.__self__), self.plain(value.__func__)]
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self.plain(value.__func__)]
        if isinstance(value, property):
            return ["property", *map(self.plain, (value.fget, value.fset, value.fdel))]
        if isinstance(value, functools.cached_property):
            return ["property", self.plain(value.func)]
        if isinstance(value, Enum):
            return [self.plain(type(value)), value.name]
        if isinstance(value, BaseModel):
            # The state would also contain which fields were set explicitly.
            fields = {name: getattr(value, name) for name in type(value).model_fields}
            private = None if _is_imsims(type(value)) else value.__pydantic_private__
            return [self.plain(type(value)), self.plain(fields), self.plain(private)]
        if isinstance(value, _CACHED):  # the rest of its state is the cache
            return ["cached", self.plain(value.__wrapped__)]
        return self._state(value)

    def _state(self, value: Any) -> object:
        """Return the data that pickle would write: the constructor, its arguments, and the content."""
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            made = reduce(value) if reduce else value.__reduce_ex__(4)
            if isinstance(made, str):
                return [*_where(getattr(value, "__module__", None) or type(value).__module__), made]
            maker, arguments, state, items, pairs = (*made, None, None, None)[:5]
            content = [list(part) if isinstance(part, Iterator) else part for part in (items, pairs)]
        except RecursionError:
            raise
        except Exception as error:
            raise NotComparableError(f"a {type(value).__qualname__} ({error})") from None
        return [*map(self.plain, (maker, arguments, state, *content))]

    def _code(self, code: CodeType) -> list[object]:
        # The source does not identify the code: two lambdas in one line share it, and a prompt has none.
        parts = (
            code.co_code,
            code.co_exceptiontable,
            code.co_names,
            code.co_varnames,
            code.co_freevars,
            code.co_consts,
        )
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        return [*map(self.plain, parts), *counts]

    def _function(self, one: FunctionType) -> list[object]:
        where = [] if one.__module__ == "builtins" else _where(one.__module__)  # builtins are not Python functions
        closed = [self.plain(_content(cell)) for cell in one.__closure__ or ()]
        if where:
            return ["function", *where, one.__qualname__, closed]
        globals_ = {name: self.plain(value) for name, value in sorted(_referred(one.__code__, one.__globals__).items())}
        given = [self.plain(part) for part in (one.__defaults__, one.__kwdefaults__, vars(one))]
        return ["function", one.__qualname__, self._code(one.__code__), *given, closed, globals_]

    def _class(self, one: type) -> list[object]:
        # A class that is made without a module has the module "builtins", but real builtins are not heap types.
        is_made_here = one.__module__ == "builtins" and one.__flags__ & _HEAP_TYPE
        if not is_made_here and (where := _where(one.__module__)):
            return ["class", *where, one.__qualname__]
        # Dunder names that are not methods belong to Python or pydantic.
        own = {
            name: self.plain(item)
            for name, item in sorted(vars(one).items())
            if not name.startswith(("__", "_abc_"))
            or inspect.isfunction(item)
            or isinstance(item, staticmethod | classmethod)
        }
        fields: list[object] = []
        if issubclass(one, BaseModel):
            fields = [
                [name, repr(field.annotation), *map(self.plain, (field.default, field.default_factory, field.metadata))]
                for name, field in one.model_fields.items()
            ]
        return ["class", one.__qualname__, own, fields, *map(self.plain, one.__bases__)]


def _referred(code: CodeType, globals_: dict[str, Any]) -> dict[str, object]:
    """Return the globals that the code names, and for the user's modules the attributes that it names."""
    found: dict[str, object] = {}
    instructions = list(dis.get_instructions(code))
    for position, instruction in enumerate(instructions):
        name = instruction.argval
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = globals_.get(name, _MISSING)
        elif instruction.opname == "IMPORT_NAME":
            level = instructions[position - 2].argval  # the number of dots
            try:
                value = importlib.import_module("." * level + name, globals_.get("__package__"))
            except Exception:  # the code itself handles a failed import
                continue
        else:
            continue
        if isinstance(value, ModuleType):
            after = instructions[position + 1].opname
            if instruction.opname != "IMPORT_NAME" and after not in ("LOAD_ATTR", "LOAD_METHOD"):
                found[name] = value  # the code uses the module as a whole
            else:
                _of_module(name, value, code.co_names, found)
        elif value is not _MISSING:
            found[name] = value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _referred(constant, globals_)
    return found


def _of_module(name: str, module: ModuleType, names: tuple[str, ...], found: dict[str, object]) -> None:
    if name in found:
        return
    if _where(module.__name__):
        found[name] = module
        return
    found[name] = "a module of the user's"
    for attribute in names:
        value = vars(module).get(attribute, _MISSING)
        if isinstance(value, ModuleType):
            _of_module(f"{name}.{attribute}", value, names, found)
        elif value is not _MISSING:
            found[f"{name}.{attribute}"] = value


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return "nothing yet"


def _is_imsims(one: type) -> bool:
    return one.__module__.partition(".")[0] == "imsim"


@functools.cache
def _where(name: str | None) -> list[str]:
    """Return a module's name and the version of its package; nothing for a user's module, script or cell."""
    if not name or name == "__main__":
        return []
    top = name.partition(".")[0]
    if top == "imsim":
        return [name]
    module = sys.modules.get(top)
    found = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if found is None:
        return [name, platform.python_version()] if top in sys.stdlib_module_names else []
    file = Path(found).resolve()
    if any(map(file.is_relative_to, _folders("purelib", "platlib"))):
        return [name, str(getattr(module, "__version__", None) or _version(top))]
    # The file decides, because a user's script may have the name of a standard module.
    return [name, platform.python_version()] if any(map(file.is_relative_to, _folders("stdlib", "platstdlib"))) else []


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # the distribution has another name than the module
        return ""


@functools.cache
def _folders(*kinds: str) -> frozenset[Path]:
    """Return the folders of installed packages. An editable package lies elsewhere and counts as the user's code."""
    folders = [sysconfig.get_path(kind) for kind in kinds]
    if "purelib" in kinds:
        folders += [site.getusersitepackages(), *site.getsitepackages()]
    return frozenset(Path(folder).resolve() for folder in folders)
