"""Files, functions and argument lists stay small enough to read; names say what is in them."""

import ast

FILE_LINES = 400
FUNCTION_LINES = 60
ARGUMENTS = 8
DRAWERS = {"util", "utils", "helper", "helpers", "misc", "common"}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source):
    return (node for node in ast.walk(source.tree) if isinstance(node, FUNCTIONS))


def argument_count(function):
    """Every argument a caller can pass, without self, cls, * and **."""
    signature = function.args
    listed = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
    return len([argument for argument in listed if argument.arg not in ("self", "cls")])


def test_files_are_short(sources):
    lengths = {source.path: len(source.text.splitlines()) for source in sources}
    long = [f"{path}: {n} lines" for path, n in lengths.items() if n > FILE_LINES]
    assert not long, f"split by noun, at most {FILE_LINES} lines:\n" + "\n".join(long)


def test_functions_fit_on_a_screen(sources):
    long = [
        f"{source.path}:{function.lineno} {function.name}: {lines} lines"
        for source in sources
        for function in functions(source)
        if (lines := function.end_lineno - function.lineno + 1) > FUNCTION_LINES
    ]
    assert not long, f"at most {FUNCTION_LINES} lines:\n" + "\n".join(long)


def test_functions_take_few_arguments(sources):
    greedy = [
        f"{source.path}:{function.lineno} {function.name}: {count} arguments"
        for source in sources
        for function in functions(source)
        if (count := argument_count(function)) > ARGUMENTS
    ]
    assert not greedy, f"at most {ARGUMENTS}; what belongs together has a name:\n" + "\n".join(
        greedy
    )


def test_no_file_or_folder_is_a_drawer(sources):
    drawers = [
        str(source.path)
        for source in sources
        if any(DRAWERS & set(part.split("_")) for part in source.path.with_suffix("").parts)
    ]
    assert not drawers, "name it for what it holds:\n" + "\n".join(drawers)


def test_nothing_is_printed(sources):
    prints = [
        f"{source.path}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not prints, "log it, or hand it back as the result:\n" + "\n".join(prints)
