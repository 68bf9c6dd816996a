"""Our errors say what happened, match a builtin, and cross a process border whole."""

import ast
import importlib
import pickle

import pytest

from omniforcing_model.errors import OmniForcingError

MODULES = ("omniforcing_model.errors", "infra.errors")
MESSAGE = "expected 4, got 3; add one"
GENERAL = (OmniForcingError, Exception, BaseException, object)


def public_errors():
    for module in map(importlib.import_module, MODULES):
        for name, value in vars(module).items():
            ours = isinstance(value, type) and issubclass(value, OmniForcingError)
            if ours and value.__module__ == module.__name__ and not name.startswith("_"):
                yield value


def builtins_of(error):
    """The builtin classes that an error is, besides those every error is."""
    return [base for base in error.__mro__ if base.__module__ == "builtins" and base not in GENERAL]


each_error = pytest.mark.parametrize("error", list(public_errors()), ids=lambda e: e.__name__)


@each_error
def test_an_error_is_made_of_one_message(error):
    assert str(error(MESSAGE)) == MESSAGE


@each_error
def test_an_error_survives_pickle(error):
    again = pickle.loads(pickle.dumps(error(MESSAGE)))
    assert type(again) is error
    assert str(again) == MESSAGE


@each_error
def test_an_error_has_a_docstring_of_its_own(error):
    assert vars(error).get("__doc__")


@each_error
def test_an_error_is_also_the_builtin_a_caller_expects(error):
    assert error is OmniForcingError or builtins_of(error)


def test_errors_are_declared_in_the_two_error_files_only(sources):
    declared = {f"{module.replace('.', '/')}.py" for module in MODULES}
    families = {error.__name__ for error in public_errors()}
    strays = [
        f"{source.path}: {node.name}"
        for source in sources
        if str(source.path) not in declared
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and {ast.unparse(base).rpartition(".")[2] for base in node.bases} & families
    ]
    assert not strays, "declare it where its tree is drawn:\n" + "\n".join(strays)


@pytest.mark.ray
def test_every_error_comes_through_ray_as_itself(ray_local):
    @ray_local.remote(num_cpus=0)
    def fail(error):
        raise error

    for error in public_errors():
        with pytest.raises(error) as caught:
            ray_local.get(fail.remote(error(MESSAGE)))
        assert all(isinstance(caught.value, builtin) for builtin in builtins_of(error))
        assert MESSAGE in str(caught.value)
