"""The search for an adapter by its name."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from imsim.core.exceptions import UsageError
from imsim.load.adapters.interface import Adapter

NAMES: dict[str, str] = {
    "imsim": "imsim.load.adapters.imsim:ImsimAdapter",
    "websocket": "imsim.load.adapters.websocket:WebSocketAdapter",
    "mqtt": "imsim.load.adapters.mqtt:MqttAdapter",
    "xmpp": "imsim.load.adapters.xmpp:XmppAdapter",
    "socketio": "imsim.load.adapters.socketio:SocketIOAdapter",
}
"""The adapters that imsim has: name -> module:class."""

GROUP = "imsim.adapters"
"""The group of entry points in which packages register their adapters."""


def names() -> list[str]:
    """Return the names of the adapters of imsim and of installed packages, sorted."""
    return sorted(_registered())


def find(name: str) -> type[Adapter]:
    """Return the class of an adapter.

    name: the name of an adapter of imsim or of an installed package (entry point), `package.module:Class`, or
        `path/to/file.py:Class`. Without `:Class`, the module or file must define exactly one adapter.

    Raises: UsageError if it cannot be found or imported, or is not an adapter.
    """
    registered = _registered()
    path, _, wanted = registered.get(name, name).partition(":")
    if name not in registered and not wanted and "." not in path and not path.endswith(".py"):
        near = difflib.get_close_matches(name, registered, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(registered))}."
        raise UsageError(f"adapter: unknown name {name!r}; {known} A path such as my_adapter.py:MyAdapter works, too")
    module = _module(path)
    if wanted:
        found = getattr(module, wanted, None)
        if found is None:
            raise UsageError(f"adapter: {path} has no {wanted}")
    else:
        own = [
            one
            for one in vars(module).values()
            if isinstance(one, type) and issubclass(one, Adapter) and one.__module__ == module.__name__
        ]
        if len(own) != 1:
            names = ", ".join(one.__name__ for one in own) or "none"
            raise UsageError(f"adapter: {path} must define one adapter (got {names}); name one as {path}:Class")
        found = own[0]
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise UsageError(f"adapter: {name}: must be a subclass of imsim.load.adapters.Adapter")
    return found


def absolute(name: str) -> str:
    """Return a name that means the same adapter in any working directory: a path of a file becomes absolute."""
    path, colon, wanted = name.partition(":")
    return f"{Path(path).resolve()}{colon}{wanted}" if path.endswith(".py") else name


def options_of(texts: Iterable[str], option: str) -> dict[str, str]:
    """Return the options of an adapter by name, from texts such as `qos=1`. `option` names their source in errors.

    Raises: UsageError for a text without a name or without "=".
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{option}: must be NAME=VALUE (got {text!r})")
        found[name] = value
    return found


def _registered() -> dict[str, str]:
    return NAMES | {entry.name: entry.value for entry in importlib.metadata.entry_points(group=GROUP)}


def _module(path: str) -> ModuleType:
    try:
        if not path.endswith(".py"):
            return importlib.import_module(path)
        file = Path(path).resolve()
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))  # so that the file can import its neighbours
        spec = importlib.util.spec_from_file_location(f"imsim_adapter_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    except FileNotFoundError:
        raise UsageError(f"adapter: there is no file {path}") from None
    except UsageError:
        raise  # the adapter says what is missing
    except Exception as error:
        raise UsageError(f"adapter: cannot import {path}: {type(error).__name__}: {error}") from None
