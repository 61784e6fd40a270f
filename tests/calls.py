"""What notebooks and helpers pass to TRL, PEFT and Transformers, and what these take.

Calls are read from the syntax trees. A `**name` is followed to the dictionaries that
the same file or notebook gives that name; `profile.grpo` and `profile.lora` are
followed to the rows of helpers/profiles.toml.
"""

import ast
import difflib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import nbformat
import peft
import transformers
import trl
from IPython.core.inputtransformer2 import TransformerManager

from helpers import profiles, training
from tests import ROOT

TABLES = {"grpo": profiles.GRPO, "lora": profiles.LORA}


@dataclass(frozen=True)
class Call:
    """A keyword that a file passes; `to` is what is called, as in `GRPOConfig`."""

    to: str
    keyword: str
    where: str


def texts() -> dict[str, str]:
    """The Python of each file of the helpers and of each notebook, by path."""
    found = {}
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = [cell.source for cell in cells if cell.cell_type == "code"]
        magic = TransformerManager()
        text = "\n".join(magic.transform_cell(source) for source in code)
        found[path.relative_to(ROOT).as_posix()] = text
    return found


def callee(node: ast.Call) -> str:
    """The name of what is called; with its owner for `X.from_pretrained`."""
    if isinstance(node.func, ast.Name):
        # A bare `generate` is the course's own.
        return node.func.id if node.func.id != "generate" else ""
    if not isinstance(node.func, ast.Attribute):
        return ""
    name, owner = node.func.attr, ast.unparse(node.func.value)
    if name == "from_pretrained":
        return f"{owner}.{name}"
    return name if (owner, name) != ("fast", "generate") else ""


class Names:
    """What the names of a file stand for, by function and line."""

    def __init__(self, tree: ast.AST):
        self.scopes: dict[ast.AST, ast.AST] = {}
        self.given: dict[tuple, list[tuple]] = {}
        self.walk(tree, tree)

    def walk(self, node: ast.AST, scope: ast.AST) -> None:
        """Note the scope of each node, and what each assignment gives a name."""
        for child in ast.iter_child_nodes(node):
            self.scopes[child] = scope
            if isinstance(child, ast.Assign | ast.AugAssign | ast.For):
                value = child.iter if isinstance(child, ast.For) else child.value
                for target in getattr(child, "targets", None) or [child.target]:
                    more = isinstance(child, ast.AugAssign)
                    key = (scope, ast.unparse(target))
                    self.given.setdefault(key, []).append((child.lineno, more, value))
            inner = isinstance(child, ast.FunctionDef | ast.Lambda)
            self.walk(child, child if inner else scope)

    def values(self, node: ast.Name) -> list[ast.AST]:
        """What a name stands for where it is read: its last value, and additions."""
        scope, found = self.scopes[node], []
        while not found and scope is not None:
            every = sorted(self.given.get((scope, node.id), []), key=lambda x: x[0])
            for _, more, value in (x for x in every if x[0] < node.lineno):
                found = [*found, value] if more else [value]
            scope = self.scopes.get(scope)
        return found

    def keys(self, node: ast.AST) -> set[str]:
        """The keys that an expression for a dictionary has, as far as they are seen."""
        found, below = set(), []
        match node:
            case ast.Dict():
                pairs = list(zip(node.keys, node.values, strict=True))
                below = [value for key, value in pairs if key is None]  # {**other}
                found = {k.value for k, _ in pairs if isinstance(k, ast.Constant)}
            case ast.Name():
                below = self.values(node)
            case ast.BinOp():
                below = [node.left, node.right]
            case ast.Attribute():
                found = set(TABLES.get(node.attr, ()))
            case ast.DictComp():  # {name: … for name, … in table.items()}
                below = [node.generators[0].iter]
            case ast.Tuple() | ast.List():  # `for each in ({…}, {…})`
                below = node.elts
            case ast.Call(func=ast.Name(id="dict")):
                found = {word.arg for word in node.keywords if word.arg}
                below = node.args
            case ast.Call(func=ast.Attribute(attr="items")):
                below = [node.func.value]
            case ast.Call(func=ast.Attribute(attr="fromkeys")):
                words = getattr(node.args[0], "elts", [])
                found = {word.value for word in words if isinstance(word, ast.Constant)}
        return found.union(*map(self.keys, below))


def calls(where: str, text: str) -> Iterator[Call]:
    """Yield each keyword that a file passes to one of `ACCEPTS`."""
    tree = ast.parse(text)
    names = Names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (to := callee(node)) in ACCEPTS:
            for word in node.keywords:
                given = {word.arg} if word.arg else names.keys(word.value)
                yield from (Call(to, name, where) for name in sorted(given))


def parameters(function) -> set[str]:
    """The names of the parameters of a function or class."""
    found = inspect.signature(function).parameters.values()
    return {p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def popped(*functions) -> set[str]:
    """What functions take by name, those out of their own **kwargs included."""
    read = (
        r"kwargs\.(?:pop|get|setdefault)\(\s*\"(\w+)\"|\"(\w+)\" (?:not )?in \w*kwargs"
    )
    found = set()
    for function in functions:
        pairs = re.findall(read, inspect.getsource(function))
        found |= {name for pair in pairs for name in pair if name}
        found |= parameters(function)
    return found


def model_names() -> set[str]:
    """What AutoModelForCausalLM.from_pretrained takes."""
    below = transformers.PreTrainedModel.from_pretrained
    return popped(transformers.AutoModelForCausalLM.from_pretrained, below)


def tokenizer_names() -> set[str]:
    """What AutoTokenizer.from_pretrained takes."""
    base = transformers.PreTrainedTokenizerBase
    auto = transformers.AutoTokenizer.from_pretrained
    return popped(auto, base.from_pretrained, base._from_pretrained, base.__init__)


def generate_names() -> set[str]:
    """What `model.generate` takes: also each setting of a GenerationConfig."""
    settings = transformers.GenerationConfig().to_dict()
    model = {"input_ids", "attention_mask"}
    return popped(transformers.GenerationMixin.generate) | set(settings) | model


def config_names() -> set[str]:
    """What GRPOConfig takes."""
    return parameters(trl.GRPOConfig)


def through(function):
    """What one of our own functions takes: its parameters, and GRPOConfig's."""
    own = {"reward_funcs", "callbacks"} if function is training.build_trainer else set()
    return lambda: parameters(function) | own | config_names()


base = transformers.PreTrainedTokenizerBase
# What is called: (the package that may have moved, what it takes).
ACCEPTS = {
    "GRPOConfig": ("trl", config_names),
    "GRPOTrainer": ("trl", lambda: parameters(trl.GRPOTrainer)),
    "grpo_config": ("trl", through(profiles.grpo_config)),
    "build_trainer": ("trl", through(training.build_trainer)),
    "LoraConfig": ("peft", lambda: parameters(peft.LoraConfig)),
    "get_peft_model": ("peft", lambda: parameters(peft.get_peft_model)),
    "PeftModel.from_pretrained": (
        "peft",
        lambda: parameters(peft.PeftModel.from_pretrained),
    ),
    "AutoModelForCausalLM.from_pretrained": ("transformers", model_names),
    "AutoTokenizer.from_pretrained": ("transformers", tokenizer_names),
    "generate": ("transformers", generate_names),
    "apply_chat_template": (
        "transformers",
        lambda: parameters(base.apply_chat_template) | parameters(base.__call__),
    ),
    "batch_decode": (
        "transformers",
        lambda: popped(base.batch_decode) | popped(base.decode),
    ),
}  # fmt: skip


def moved(found: list[Call]) -> list[str]:
    """Say of each keyword that the installed releases do not take what it is."""
    lines, takes = [], {}
    for call in found:
        package, accepted = ACCEPTS[call.to]
        names = takes.setdefault(call.to, accepted())
        if call.keyword not in names:
            near = difflib.get_close_matches(call.keyword, names, 1)
            hint = f"; did {near[0]} take its place?" if near else ""
            release = f"{package} {metadata.version(package)}"
            lines.append(
                f"{call.where}: {call.to} of {release} takes no {call.keyword}{hint}"
            )
    return lines
