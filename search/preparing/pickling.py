"""What is a user's travels to workers by value: they have neither its file nor its folder."""

from __future__ import annotations

import copyreg
import importlib
import sys
from collections.abc import Iterable
from types import ModuleType

from foldrace.errors import InputError, first_line, printable
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.data.items.lazy import LazyField
from foldrace.trainables.tasks.loading import BUILT_IN_TASKS, LoadedTask
from foldrace.trainables.user_code import referenced_module
from foldrace.trainables.user_sources import is_of_project, project_sources

__all__ = ["check_pickled", "pickle_by_value", "users_modules"]


def users_modules(spec: SweepSpec, task: LoadedTask) -> list[ModuleType]:
    """The modules of the task, its metrics, and of a data set whose items workers read."""
    references = [one for one in (spec.task, *spec.metrics) if ":" in one]
    if spec.dataset.workers is not None:
        references.append(spec.dataset.name)
    own = sys.modules[type(task.implementation).__module__]
    return [own, *map(referenced_module, references)]


def pickle_by_value(modules: Iterable[ModuleType]) -> None:
    """Lets workers unpickle what is in modules of the user's, which they need not find: a sweep is
    resumed in another folder, or runs on other machines. What is installed is there too."""
    from ray import cloudpickle

    _modules_by_name()
    for module in modules:
        if not is_of_project(module):
            continue
        beside = [sys.modules[name] for name in project_sources(module) if name in sys.modules]
        for each in (module, *beside):
            cloudpickle.register_pickle_by_value(each)


def _modules_by_name() -> None:
    """Lets modules of classes of their own be pickled, as others are, by their names.

    cloudpickle takes along each submodule whose name occurs in a function: torch.classes, which is
    not of the usual class, where a task says ``sample.target.classes``.
    """
    own = {type(module) for module in list(sys.modules.values()) if isinstance(module, ModuleType)}
    for kind in own - {ModuleType}:
        copyreg.pickle(kind, _by_name)  # type: ignore[arg-type]


def _by_name(module: ModuleType) -> tuple[object, tuple[str]]:
    return importlib.import_module, (module.__name__,)


def check_pickled(spec: SweepSpec, task: LoadedTask, dataset: Dataset) -> None:
    """Refuses a task or a data set that cannot be sent to workers.

    Raises:
        InputError: it cannot be pickled.
    """
    from ray import cloudpickle

    pickle_by_value(users_modules(spec, task))
    items = [array.items for array in dataset.training.values() if isinstance(array, LazyField)]
    own = [] if spec.task in BUILT_IN_TASKS else [task]
    for field, name, what in (("task", spec.task, own), ("dataset", dataset.name, items)):
        try:
            pickler = cloudpickle.CloudPickler(_Nowhere(), buffer_callback=lambda _: None)
            pickler.dump(what)
        except Exception as error:
            rule = f"cannot be sent to workers: {type(error).__name__}: {first_line(error)}"
            hint = "make such things in a method, not at the top of the file"
            if field == "dataset":
                hint = "open files in __getitem__, or leave dataset.workers out"
            raise InputError(field, name, printable(rule), hint) from error


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: bytes) -> int:
        return len(data)
