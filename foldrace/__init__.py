"""Cross-validated hyperparameter search of PyTorch models at cluster scale.

The names below are the public interface; each is imported when it is first used, so that
``import foldrace`` loads neither PyTorch nor Ray nor MLflow.

* `Task`: what a class must have to be trained; `Parameter`: a tunable name, its default and range.
* `SweepSpec`: a validated sweep file; `load_spec` reads one.
* `Dataset`: arrays in memory; `load_dataset` loads one by name, from files, or from a function.
* `layers`: layers of `torch.nn` that train small convolutional networks faster on a CPU.
* The exceptions `FoldraceError`, `InputError`, `DataError` and `StateError`.

>>> import foldrace
>>> foldrace.Parameter(0.1, "learning rate", above=0.0).rule
'must be a number above 0'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foldrace.errors import DataError, FoldraceError, InputError, StateError
    from foldrace.search.spec.sweep_spec import SweepSpec, load_spec
    from foldrace.trainables.cpu import layers
    from foldrace.trainables.data.arrays import Dataset
    from foldrace.trainables.data.datasets import load_dataset
    from foldrace.trainables.tasks.parameters import Parameter
    from foldrace.trainables.tasks.protocol import Task

    __version__: str

__all__ = [
    "DataError",
    "Dataset",
    "FoldraceError",
    "InputError",
    "Parameter",
    "StateError",
    "SweepSpec",
    "Task",
    "__version__",
    "layers",
    "load_dataset",
    "load_spec",
]

_MODULES = {
    "foldrace.errors": ("DataError", "FoldraceError", "InputError", "StateError"),
    "foldrace.search.spec.sweep_spec": ("SweepSpec", "load_spec"),
    "foldrace.trainables.cpu.layers": ("layers",),
    "foldrace.trainables.data.datasets": ("Dataset", "load_dataset"),
    "foldrace.trainables.tasks.parameters": ("Parameter",),
    "foldrace.trainables.tasks.protocol": ("Task",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("foldrace")
    elif name in _MODULE_OF:
        module = importlib.import_module(_MODULE_OF[name])
        value = module if name == "layers" else getattr(module, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
