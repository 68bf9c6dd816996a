"""Which fields of which configuration classes sources read, as far as their annotations tell.

A type is the set of our classes that an annotation names at any depth: an element of a tuple of
sizes is a size. Assignments are taken without their order. What has no annotation has no type.
"""

import ast

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BASE = "FrozenConfig"
# What is in the result of these is what is in their arguments.
PASSING = {"sorted", "list", "tuple", "zip", "enumerate", "reversed", "next", "iter", "max", "min"}
SAME = {"model_copy", "_replace", "items", "values", "get", "pop", "model_validate"}


class ConfigReads:
    """Reads of configuration classes, from the trees of modules by dotted name.

    A read in a property counts where the property is read, and for the class that it is read of.
    """

    def __init__(self, trees, counts=lambda module, cls: True):
        self._imports, self._defined, self._globals, self._known = {}, {}, {}, {}
        self._counts, self.reads = counts, set()
        for module, tree in trees.items():
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            self._imports[module] = {
                alias.asname or alias.name: (node.module, alias.name)
                for node in imports
                for alias in node.names
            }
            for node in tree.body:
                if isinstance(node, (ast.ClassDef, *FUNCTIONS)):
                    self._defined[module, node.name] = node
                for target in getattr(node, "targets", []):
                    if isinstance(target, ast.Name):
                        self._globals[module, target.id] = node.value
        for module, tree in trees.items():
            self._visit(module, tree, {})
        for (module, _), node in list(self._defined.items()):
            if isinstance(node, ast.ClassDef) and not self._is_config((module, node.name)):
                for method in node.body:
                    self._visit(module, method, {"self": {(module, node.name)}})

    def _visit(self, module, node, names):
        """Record the reads of a function or a module, and of the functions in it."""
        if isinstance(node, FUNCTIONS):
            names = self._names(module, node, names)
        elif not isinstance(node, ast.Module):
            return
        for part in own_nodes(node):
            if isinstance(part, FUNCTIONS):
                self._visit(module, part, names)
            elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load):
                for cls in self._types(module, part.value, names):
                    if self._is_config(cls) and self._counts(module, cls):
                        self._record(cls, part.attr)
            elif isinstance(part, ast.Call) and ast.unparse(part).startswith("getattr(self, "):
                # A class whose fields are a table looks one up by its name.
                for cls in filter(self._is_config, names["self"]):
                    self.reads |= {(cls, name) for name in self._fields(cls)}

    def _record(self, cls, name):
        if (cls, name) in self.reads:
            return
        self.reads.add((cls, name))
        owner, member = self._member(cls, name)
        if isinstance(member, FUNCTIONS):
            self._visit(owner[0], member, {"self": {cls}})
            for other in self._defined:  # it may be one that has its own
                if other != cls and cls in self._bases(other) and self._is_config(other):
                    self._record(other, name)

    def _key(self, module, name):
        return self._imports[module].get(name, (module, name))

    def _bases(self, cls):
        bases = getattr(self._defined.get(cls), "bases", [])
        return [self._key(cls[0], base.id) for base in bases if isinstance(base, ast.Name)]

    def _is_config(self, cls):
        return any(base[1] == BASE or self._is_config(base) for base in self._bases(cls))

    def _annotated(self, module, node, visited=()):
        types = set()
        for part in ast.walk(node) if node is not None else []:
            name = part.value if isinstance(part, ast.Constant) else getattr(part, "id", None)
            key = self._key(module, name)
            if isinstance(self._defined.get(key), ast.ClassDef):
                types.add(key)
            elif key in self._globals and key not in visited:
                types |= self._annotated(key[0], self._globals[key], (*visited, key))
        return types

    def _member(self, cls, name):
        """The class that defines a member, and its node; of a field, its annotation."""
        for node in self._defined[cls].body:
            if isinstance(node, FUNCTIONS) and node.name == name:
                return cls, node
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == name:
                return cls, node.annotation
        bases = [base for base in self._bases(cls) if base in self._defined]
        return next((m for m in (self._member(b, name) for b in bases) if m[1]), (cls, None))

    def _attribute(self, cls, name):
        if (cls, name) not in self._known:
            self._known[cls, name] = set()
            owner, member = self._member(cls, name)
            if member is not None:
                annotation = member.returns if isinstance(member, FUNCTIONS) else member
                self._known[cls, name] = self._annotated(owner[0], annotation)
            else:
                self._known[cls, name] = self._set_in_methods(cls, name)
        return self._known[cls, name]

    def _set_in_methods(self, cls, name):
        types = set()
        for method in self._defined[cls].body:
            if not isinstance(method, FUNCTIONS):
                continue
            names = None
            for node in ast.walk(method):
                targets = getattr(node, "targets", [getattr(node, "target", None)])
                if any(ast.dump(t) == ast.dump(own(name)) for t in targets if t is not None):
                    names = names or self._names(cls[0], method, {"self": {cls}})
                    types |= self._annotated(cls[0], getattr(node, "annotation", None))
                    types |= self._types(cls[0], getattr(node, "value", None), names)
        return types

    def _names(self, module, function, outer):
        """Types of the names in a function, and of expressions that it asks by isinstance."""
        names = dict(outer)
        arguments = function.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.arg != "self" or "self" not in outer:
                names[argument.arg] = self._annotated(module, argument.annotation)
        for _ in range(3):  # a name may be set from one that is set further down
            for node in own_nodes(function):
                for target, value in assignments(node):
                    self._assign(module, target, value, names)
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    names[node.target.id] = self._annotated(module, node.annotation)
                elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                    subject = ast.unparse(node.args[0])
                    classes = self._annotated(module, node.args[1])
                    names[subject] = names.get(subject, set()) | classes
        return names

    def _assign(self, module, target, value, names):
        types = self._types(module, value, names)
        if isinstance(target, ast.Name):
            names[target.id] = names.get(target.id, set()) | types
        elif isinstance(target, ast.Tuple):
            parts = getattr(value, "elts", [])
            for number, part in enumerate(target.elts):
                if not isinstance(part, ast.Name):
                    continue
                own_types = types | set().union(*(self._nth(cls, number) for cls in types))
                if isinstance(value, ast.Tuple) and len(parts) == len(target.elts):
                    own_types = self._types(module, parts[number], names)
                names[part.id] = names.get(part.id, set()) | own_types

    def _nth(self, cls, number):
        """Of a named tuple that is taken apart."""
        fields = list(self._fields(cls).values())
        return self._annotated(cls[0], fields[number]) if number < len(fields) else set()

    def _types(self, module, node, names):
        types = set(names.get(ast.unparse(node), set())) if node is not None else set()
        if isinstance(node, ast.Name) and node.id not in names:
            value = self._globals.get(self._key(module, node.id))
            types |= self._types(self._key(module, node.id)[0], value, {})
        elif isinstance(node, ast.Attribute):
            for cls in self._types(module, node.value, names):
                types |= self._attribute(cls, node.attr)
        elif isinstance(node, ast.Call):
            types |= self._called(module, node, names)
        else:
            for name in ("value", "values", "elts", "elt", "body", "orelse"):
                part = getattr(node, name, None)
                for each in part if isinstance(part, list) else [part]:
                    if isinstance(each, ast.expr):
                        types |= self._types(module, each, names)
        return types

    def _called(self, module, call, names):
        if isinstance(call.func, ast.Name):
            return self._called_by_name(module, call, names)
        if not isinstance(call.func, ast.Attribute):
            return set()
        owner = call.func.value
        types = self._types(module, owner, names) | self._annotated(module, owner)
        if call.func.attr in SAME:
            return types
        return set().union(*(self._attribute(cls, call.func.attr) for cls in types))

    def _called_by_name(self, module, call, names):
        key = self._key(module, call.func.id)
        definition = self._defined.get(key)
        if isinstance(definition, ast.ClassDef):
            return {key}
        if definition is not None:
            return self._annotated(key[0], definition.returns)
        arguments = [self._types(module, argument, names) for argument in call.args]
        if call.func.id == "getattr":
            return set().union(*(self._any_field(cls) for cls in arguments[0]))
        return set().union(*arguments) if call.func.id in PASSING else set()

    def _any_field(self, cls):
        fields = self._fields(cls).values()
        return set().union(*(self._annotated(cls[0], field) for field in fields))

    def _fields(self, cls):
        """Annotations by name, of a class's own fields."""
        body = self._defined[cls].body
        return {n.target.id: n.annotation for n in body if isinstance(n, ast.AnnAssign)}


def assignments(node):
    """The targets that a node assigns to, each with what it gets or an element of that."""
    if isinstance(node, ast.Assign):
        return [(target, node.value) for target in node.targets]
    if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        return [(node.target, node.iter)]
    if isinstance(node, ast.withitem):
        return [(node.optional_vars, node.context_expr)]
    return [(node.target, node.value)] if isinstance(node, ast.NamedExpr) else []


def own(name):
    """`self.name`, as it is assigned to."""
    return ast.Attribute(ast.Name("self", ast.Load()), name, ast.Store())


def own_nodes(function):
    """Nodes of a function or module; those of functions and classes in it are left to them."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)
