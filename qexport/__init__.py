"""qexport: test vectors of quantized networks that an RTL engineer can trust.

The public API stands in docs/reference/python.md; its names are loaded when they are used, so that commands start fast.
Errors stand in qexport.errors.
"""

TYPE_CHECKING = False  # typing takes long to import: a Ctrl-C would meet it before `cli` can say so
if TYPE_CHECKING:
    from qexport.api import VectorSet as VectorSet
    from qexport.api import capture as capture
    from qexport.api import dump as dump
    from qexport.api import load as load
    from qexport.api import open as open
    from qexport.build.verify import Report as Report
    from qexport.findings.diagnosis import Diagnosis as Diagnosis
    from qexport.findings.explain import Explanation as Explanation
    from qexport.findings.shrink import Shrunk as Shrunk
    from qexport.sim.verdict import Verdict as Verdict

__version__ = "0.2.0"

_HOMES = {
    "VectorSet": "api",
    "capture": "api",
    "dump": "api",
    "load": "api",
    "open": "api",
    "Report": "build.verify",
    "Diagnosis": "findings.diagnosis",
    "Explanation": "findings.explain",
    "Shrunk": "findings.shrink",
    "Verdict": "sim.verdict",
}
__all__ = list(_HOMES)  # pyright: ignore


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'qexport' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"qexport.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
