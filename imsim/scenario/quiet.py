"""Models whose tab completion shows the names that imsim defines, and none of pydantic's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

_PYDANTIC = frozenset(dir(BaseModel))


class _QuietType(ModelMetaclass):
    _internal: frozenset[str]

    def __dir__(cls) -> list[str]:
        names = {name for name in super().__dir__() if not name.startswith("_")}
        return sorted(names - _PYDANTIC - cls._internal)


class QuietModel(BaseModel, metaclass=_QuietType):
    """A pydantic model with a short `dir()`: its fields and the public names that its classes define."""

    #: Public names that only imsim itself uses.
    _internal: ClassVar[frozenset[str]] = frozenset()

    def __dir__(self) -> list[str]:
        return sorted({*type(self).model_fields, *dir(type(self))})
