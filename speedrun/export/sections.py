"""A recipe as two sections of modded-nanogpt's train_gpt_simple.py: its optimizer, and its hyperparameters.

That file is one script in sections, each under a box of three comment lines. The code of the optimizer is
gathered from this project's own modules (export_source.py); every other section keeps its bytes.
"""
import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from optimizers.recipe import AdamW, Recipe
from speedrun.cli import Refusal, near
from speedrun.text import printable

from .source import Gathered, Import, bindings, gather, import_lines, read_import, top_level_imports

UPSTREAM = "modded-nanogpt's records/track_3_optimization/train_gpt_simple.py"
OPTIMIZER, HYPERPARAMETERS = "Optimizer", "Init & Optim Hyperparams"
BOX = re.compile(r"^( *)(#{20,})\r?\n\1#[ ]+(\S.*?)[ ]+#\r?\n\1\2\r?\n", re.MULTILINE)
GIVEN = ("model", "print0")  # by other sections, to ours
OURS = [Import("hashlib", None, "hashlib"), Import("sys", None, "sys"), Import("torch", None, "torch")]
TABLES = [("optimizers/polar.py", name) for name in ("COEFFICIENTS", "OTHERS", "UNSAFE")]  # by method

OPTIMIZER_SECTION = '''
# Written by scripts/export.py of aurora-speedrun, which has the files named below. Classes and functions are
# as they are there, less what follows the first paragraph of a docstring. They need torch alone.

{imports}{code}'''

HYPERPARAMETERS_SECTION = '''
# recipe {recipe.name}
train_steps = {recipe.steps}  # where a run stops
schedule_steps = {recipe.schedule_steps}  # what the learning rate schedule is drawn for
warmup_steps = {recipe.warmup_steps}

# Called as FILE TRIALS, trial k has seed k; as FILE FIRST_SEED TRIALS, it has seed FIRST_SEED + k.
seed = {trial} + (int(sys.argv[1]) if len(sys.argv) > 2 else 0)
print0(f"Using seed={{seed}}", console=True)
variances = {{"attn.proj": {init.attn_proj!r}, "mlp.fc": {init.up!r}, "mlp.proj": {init.down!r}, "proj": 0.0}}
for name, p in model.named_parameters():
    variance = variances.get(".".join(name.split(".")[-3:-1]), 0.33)  # times fan-in
    if name.endswith("gains"):
        p.data.fill_(1)
    elif name.endswith("bias") or not variance:
        p.data.zero_()
    else:  # from a generator of its own
        digest = hashlib.sha256(f"{{seed}}/{{name}}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        std = 1.0 if name == "embed.weight" else (variance / p.size(-1)) ** 0.5
        p.data.copy_(torch.randn(p.shape, generator=generator) * std)

adamw = torch.optim.AdamW(
    [dict(params=[model.embed.weight], lr={aux.embed_lr!r}),
     dict(params=[model.proj.weight], lr={aux.head_lr!r}),
     dict(params=[p for p in model.parameters() if p.ndim < 2], lr={aux.vector_lr!r})],
    betas=({aux.beta1!r}, {aux.beta2!r}), eps={aux.eps!r}, weight_decay={aux.weight_decay!r}, fused=True)
attn, up, down = ([(name, p) for name, p in model.named_parameters() if part in name and p.ndim == 2]
                  for part in (".attn.", ".mlp.fc.", ".mlp.proj."))
{matrices}
optimizers = [adamw, matrices]
groups = [group for opt in optimizers for group in opt.param_groups]
assert {{p for group in groups for p in group["params"]}} == set(model.parameters())
for group in groups:
    group["initial_lr"] = group["lr"]

def set_hparams(step):
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    left = 1 - step / schedule_steps
    for opt, cooldown_frac in zip(optimizers, ({aux_cooldown_frac!r}, {recipe.cooldown_frac!r})):
        eta = warmup * (min(1.0, left / cooldown_frac) if cooldown_frac else 1.0)
        for group in opt.param_groups:
            group["lr"] = group["initial_lr"] * eta
'''

ADAMW = '''\
matrices = torch.optim.AdamW(
    [*attn, *up, *down], lr={recipe.lr!r}, betas=({adam.beta1!r}, {adam.beta2!r}), eps={adam.eps!r},
    weight_decay={recipe.weight_decay!r}, fused=True)'''

CHAIN = '''\
matrices = ChainOptimizer(
    [dict(params=attn, balance={balance.attn!r}),
     dict(params=up, balance={balance.up!r}),
     dict(params=down, balance={balance.down!r})],
    chain=(
        {chain},
    ),
    lr={recipe.lr!r}, weight_decay={recipe.weight_decay!r}, momentum={recipe.momentum!r})'''


@dataclass(frozen=True)
class Section:
    title: str
    indent: str
    start: int   # of what is under the box
    end: int     # where the next box, or the file, ends it


def read_sections(text: str) -> list[Section]:
    """The sections of a script, in order."""
    boxes = list(BOX.finditer(text))
    ends = [box.start() for box in boxes[1:]] + [len(text)]
    return [Section(box[3], box[1], box.end(), end) for box, end in zip(boxes, ends)]


def replaced_sections(text: str) -> tuple[Section, Section]:
    """The optimizer's section and the hyperparameters'. Refusal where either is not there exactly once."""
    sections = read_sections(text)
    titles = [section.title for section in sections]
    for title in (OPTIMIZER, HYPERPARAMETERS):
        if titles.count(title) != 1:
            found = "is there twice" if title in titles else f"is not there; {near(title, titles)}"
            raise Refusal(f"the section {title!r} {printable(found)}; name a copy of {UPSTREAM}")
    optimizer, hyperparameters = (sections[titles.index(t)] for t in (OPTIMIZER, HYPERPARAMETERS))
    if optimizer.start > hyperparameters.start:
        raise Refusal(f"the section {OPTIMIZER!r} comes after {HYPERPARAMETERS!r}; name a copy of "
                      f"{UPSTREAM}")
    return optimizer, hyperparameters


def export(text: str, recipe: Recipe, root: Path) -> str:
    """The script `text` with both sections replaced by those of `recipe`, whose modules are under `root`.

    Refusal where the recipe cannot be held in these sections or the script does not have them.
    """
    if recipe.wrappers:
        names = ", ".join(type(wrapper).__name__ for wrapper in recipe.wrappers)
        raise Refusal(f"recipe {recipe.name} has the wrapper {names}, which acts on the training and "
                      "validation sections, too; only recipes without wrappers can be exported")
    recipe.check()
    optimizer, hyperparameters = replaced_sections(text)
    rest = "".join((text[:optimizer.start], text[optimizer.end:hyperparameters.start],
                    text[hyperparameters.end:]))
    tree = _parsed(rest, "without these two sections")
    cut = hyperparameters.start - (optimizer.end - optimizer.start)  # where it was in `rest`
    trial = _trial_variable(tree, rest.count("\n", 0, cut))
    calls, texts = wanted(recipe)
    gathered = gather(root, calls, TABLES, texts)
    theirs = {found for node in top_level_imports(tree.body) for found in read_import(node)}
    imports = {*gathered.imports, *OURS} - theirs
    codes = optimizer_section(gathered, imports), hyperparameters_section(recipe, trial)
    _check_names(text, tree, gathered, imports, codes)
    newline = "\r\n" if "\r\n" in text else "\n"
    for section, code in ((hyperparameters, codes[1]), (optimizer, codes[0])):  # last first: offsets hold
        gap = "\n\n" if section.end < len(text) else ""
        body = textwrap.indent(code, section.indent) + gap
        text = text[:section.start] + body.replace("\n", newline) + text[section.end:]
    _parsed(text, "as exported")
    return text


def _parsed(text: str, when: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:  # ValueError: a null byte
        raise Refusal(f"the script is not Python {when} ({printable(error)}); name a copy of "
                      f"{UPSTREAM}") from None


def wanted(recipe: Recipe) -> tuple[list[tuple[str, str]], set[str]]:
    """(path, name) of what the sections of `recipe` call, and the texts that they call it with."""
    if isinstance(recipe.matrices, AdamW):
        return [], set()
    try:
        nodes = list(ast.walk(ast.parse(repr(recipe.matrices))))
    except SyntaxError:
        raise Refusal(f"recipe {recipe.name}: a stage of its chain has no repr that builds it again; make "
                      "every stage a frozen dataclass") from None
    stages = sorted({node.id for node in nodes if isinstance(node, ast.Name)})
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return [*(("optimizers/recipes.py", stage) for stage in stages),
            ("speedrun/export/driver.py", "ChainOptimizer")], texts


def _trial_variable(tree: ast.Module, line: int) -> str:
    """The variable of the loop over trials that the line is in."""
    for node in tree.body:
        if isinstance(node, ast.For) and node.lineno <= line <= node.end_lineno and \
                isinstance(node.target, ast.Name) and ast.unparse(node.iter).startswith("range("):
            return node.target.id
    raise Refusal(f"the section {HYPERPARAMETERS!r} is not in a loop over trials; name a copy of "
                  f"{UPSTREAM}")


def optimizer_section(gathered: Gathered, imports: set[Import]) -> str:
    """The definitions, and the imports that the script does not have."""
    lines = import_lines(imports)
    return OPTIMIZER_SECTION.format(imports="\n".join(lines) + "\n\n" * bool(lines), code=gathered.code)


def hyperparameters_section(recipe: Recipe, trial: str) -> str:
    """Every constant of `recipe` in code; `trial` is the variable that counts trials from 0."""
    aux = recipe.aux
    if isinstance(recipe.matrices, AdamW):
        matrices = ADAMW.format(recipe=recipe, adam=recipe.matrices)
    else:
        chain = ",\n        ".join(map(repr, recipe.matrices))
        matrices = CHAIN.format(recipe=recipe, balance=recipe.balance, chain=chain)
    return HYPERPARAMETERS_SECTION.format(recipe=recipe, aux=aux, init=recipe.init, trial=trial,
                                          matrices=matrices, aux_cooldown_frac=recipe.aux_cooldown_frac)


def _check_names(text: str, rest: ast.Module, gathered: Gathered, imports: set[Import],
                 codes: tuple[str, str]) -> None:
    """Refusal where the sections and the rest of the script would take names from each other."""
    theirs, ours = bindings(rest.body), gathered.names | {found.name for found in imports}
    settings = bindings(ast.parse(codes[1]).body)
    if twice := sorted(ours & (theirs | settings)):
        raise Refusal(f"the script's other sections bind {', '.join(twice)}, too, which the exported "
                      "optimizer defines; rename one of the two")
    used = {node.id for node in ast.walk(rest) if isinstance(node, ast.Name)}
    gone = bindings(ast.parse(text).body) - theirs - ours - settings
    if missing := sorted((gone & used) | (set(GIVEN) - theirs)):
        raise Refusal(f"the script's other sections lack or lose {', '.join(missing)}; its layout is not "
                      f"that of {UPSTREAM} which this command knows")
