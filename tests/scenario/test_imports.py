import subprocess
import sys

import imsim.scenario


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, imsim.scenario; print(*(name.split('.')[0] for name in sys.modules))"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert "imsim" in loaded
    assert not loaded & {
        "pandas",
        "scipy",
        "matplotlib",
        "pyarrow",
        "simpy",
        "websockets",
        "locust",
        "gevent",
        "asyncio",
    }


def test_exports() -> None:
    assert sorted(imsim.scenario.__all__) == sorted(set(imsim.scenario.__all__))
    for name in imsim.scenario.__all__:
        assert hasattr(imsim.scenario, name)
