"""The documentation as a site: complete, with links and equations that survive the conversion."""

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md"), *ROOT.glob("experiments/**/*.md")])
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def load_hook(name):
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(nav):
    for item in nav:
        for value in item.values() if isinstance(item, dict) else [item]:
            yield from entries(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation():
    listed = list(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    copies = ["changelog.md", "contributing.md", "experiments/README.md", "security-reports.md"]
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(pages + copies)  # once each


def commands():
    """Every stepseg command of a shell example: its file and its words."""
    for page in PAGES:
        for block in re.findall(r"```(?:bash|text)\n(.*?)```", page.read_text(), re.DOTALL):
            block = re.sub(r"<[^<>\n]+>", "PLACE", block.replace("\\\n", " "))
            for line in block.splitlines():
                words = shlex.split(line, comments=True) if "stepseg-" in line else []
                named = [i for i, word in enumerate(words) if word.startswith("stepseg-")]
                starts = [i for i in named if not words[i].endswith(":")]  # what a command says
                for start in starts:
                    if start == 0 or words[start - 1] in ("&&", "srun", "trap"):
                        stops = [i for i, w in enumerate(words) if w in ("&&", "&") and i > start]
                        yield page.relative_to(ROOT), words[start : min(stops, default=None)]


def config_of(command):
    """The Hydra configuration file of a command, None where it has options instead.

    With it what may be typed instead of its keys.
    """
    module = SCRIPTS[command].split(":")[0].replace(".", "/")
    file = ROOT / "src" / f"{module}.py"
    source = (file if file.is_file() else file.with_suffix("") / "__init__.py").read_text()
    found = re.search(r'config_name="(\w+)"', source)
    config = yaml.safe_load((ROOT / f"conf/{found[1]}.yaml").read_text()) if found else None
    return config, re.findall(r'renamed=\{"(\w+)"', source)


def problem(words):
    """What is wrong with the words of a command, or None."""
    if words[0] not in SCRIPTS:
        return "no such command"
    config, renamed = config_of(words[0])
    groups = {re.split(r"[@ ]", name)[-1]
              for entry in (config or {}).get("defaults", []) if isinstance(entry, dict)
              for name in entry}  # fmt: skip
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if config is None or not equals or word.startswith(("-", "+", "hydra")) or name in renamed:
            continue
        top = name.split(".")[0]
        if top not in config and top not in {group.split(".")[0] for group in groups}:
            return f"no such option: {word}"
        folder = ROOT / "conf" / name
        is_choice = folder.is_dir() and re.fullmatch(r"\w+", value) and value != "null"
        if is_choice and not (folder / f"{value}.yaml").is_file():
            return f"no such choice: {word}"
    return None


def test_commands_in_examples_exist():
    shown = list(commands())
    assert len(shown) > 40
    assert {words[0] for _, words in shown} >= {"stepseg-train", "stepseg-eval", "stepseg-report"}
    assert [(str(page), *words, told) for page, words in shown if (told := problem(words))] == []


def test_a_wrong_example_is_noticed():
    assert problem(["stepseg-trian"]) == "no such command"
    assert problem(["stepseg-train", "bakbone=vit_tiny"]) == "no such option: bakbone=vit_tiny"
    assert problem(["stepseg-train", "backbone=vit_tony"]) == "no such choice: backbone=vit_tony"


def test_links_out_of_docs_lead_to_the_copies():
    rewrite = load_hook("repository").rewrite_links
    known = {"data.md", "api/index.md", "contributing.md", "experiments/a/README.md"}
    assert rewrite("[a](../experiments/a/README.md#b)", "data.md", known) == (
        "[a](experiments/a/README.md#b)"
    )
    assert rewrite("[d](../../docs/data.md)", "experiments/a/README.md", known) == (
        "[d](../../data.md)"
    )
    assert rewrite("[c](../../CONTRIBUTING.md)", "api/index.md", known) == "[c](../contributing.md)"
    assert rewrite("[d](docs/data.md)", "contributing.md", known) == "[d](data.md)"
    for same in ("[x](https://a.b/c.md)", "[x](#here)", "[x](../src/gone.py)"):
        assert rewrite(same, "data.md", known) == same


def test_equations_become_mathml():
    convert = load_hook("equations").on_page_content
    page = convert(
        r'<p>if <span class="arithmatex">\(a_s &lt; 1\)</span></p>'
        "\n"
        r'<div class="arithmatex">\[\frac{T}{2}\]</div>'
    )
    assert page.count("<math") == 2
    assert page.count('display="block"') == 1
    assert "<mfrac>" in page
    assert "arithmatex" not in page
    assert "\\" not in page


def test_equations_of_all_pages_are_understood():
    convert = load_hook("equations").convert
    for page in DOCS.rglob("*.md"):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
        for tex in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.DOTALL):
            assert "\\" not in convert("".join(tex)), (page.name, tex)


def test_what_the_api_shows_has_docstrings():
    modules = re.findall(
        r"^::: ([\w.]+)$", "\n".join(p.read_text() for p in (DOCS / "api").glob("*.md")), re.M
    )
    assert len(modules) > 30
    bare = []
    for module in modules:
        path = ROOT / "src" / Path(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(path.read_text())
        bare += [] if ast.get_docstring(tree) else [module]
        bare += [f"{module}.{name}" for name in undocumented(tree.body)]
    assert bare == []


def undocumented(body, owner=""):
    """Public classes, functions and methods without a docstring."""
    for node in body:
        kinds = (ast.ClassDef, ast.FunctionDef)
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
            continue
        if not ast.get_docstring(node):
            yield f"{owner}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{node.name}.")
