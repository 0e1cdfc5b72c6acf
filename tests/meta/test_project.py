# SPDX-License-Identifier: GPL-2.0-only
"""What the project promises about itself: documentation, sources, typing, layers."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/kmem"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    """Files of the project, without what builds and caches leave behind."""
    skipped = {"build", "dist", "__pycache__"}
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in (".ci",) for part in parts[:-1])
        if path.is_file() and not hidden and not skipped & set(parts) and not parts[0].endswith(".egg-info"):
            found.append(path)
    return sorted(found)


def text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")


def compiled() -> list[str]:
    """The list in setup.py, read without running the build."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "COMPILED":
            return list(ast.literal_eval(node.value))
    raise AssertionError("no COMPILED in setup.py")


def seen_by_users(path: Path) -> set[str] | None:
    """Names that the stub of a compiled module declares; None for a module without a stub: all are seen."""
    stub = path.with_suffix(".pyi")
    if not stub.exists():
        return None
    names = set()
    for node in ast.parse(stub.read_text()).body:
        names.add(getattr(node, "name", ""))
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has none"
    seen = seen_by_users(path)
    missing = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = child.name
                if name.startswith("_"):
                    continue
                if seen is not None and f"{prefix}{name}" not in seen:
                    continue
                if not ast.get_docstring(child) and not is_overload(child):
                    missing.append(f"{prefix}{name}:{child.lineno}")
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{name}.")

    visit(tree, "")
    assert not missing


def is_overload(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any("overload" in ast.unparse(decorator) or ".setter" in ast.unparse(decorator) for decorator in decorators)


# A module stays at about 800 lines; one class of Cython cannot be spread over two.
MAX_LINES = 900


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_licence_and_length(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "# SPDX-License-Identifier: GPL-2.0-only"
    assert len(lines) <= MAX_LINES


def test_every_source_file_names_its_licence() -> None:
    sources = [path for path in tracked() if path.suffix in (".py", ".pxd", ".pyi")]
    assert {path.suffix for path in sources} == {".py", ".pxd", ".pyi"}
    line = "# SPDX-License-Identifier: GPL-2.0-only\n"
    assert [str(path.relative_to(ROOT)) for path in sources if not path.read_text().startswith(line)] == []


# Parts of the core that have no counterpart in the kernel.
OWN = {"__init__.py", "debug_vm.py", "slub_state.py"}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent.name == "mm" and path.name not in OWN], ids=module_name
)
def test_modules_of_the_core_name_their_source(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"Source: \S", text)
    assert re.search(r"@6\.1", text)


def test_compiled_modules_have_declarations_and_stubs() -> None:
    names = compiled()
    assert len(names) == len(set(names))
    declared = {module_name(path) for path in PACKAGE.rglob("*.pxd")}
    assert declared <= set(names)
    for name in names:
        base = ROOT / "src" / Path(*name.split("."))
        assert base.with_suffix(".py").is_file(), name
        assert base.with_suffix(".pyi").is_file(), f"{name} has no stub for its users"


def test_no_stub_without_a_compiled_module() -> None:
    assert {module_name(path) for path in PACKAGE.rglob("*.pyi")} <= set(compiled())


def test_compiled_modules_are_compiled() -> None:
    import importlib

    for name in compiled():
        assert not str(importlib.import_module(name).__file__).endswith(".py"), f"{name} runs uncompiled"


# Written in pieces, so that this file does not contain them.
MACHINE_PATHS = ["/" + "work/", "/" + "opt/", ".." + "/shared", "/" + "root/", "/" + "home/"]
REGISTRY_HOSTS = ["pypi" + ".org", "files.python" + "hosted", "anaconda" + ".org", "r-seed" + "-"]
OTHER_WORDS = ["sub" + "agent", "help" + "er session", "Clau" + "de", "Anth" + "ropic", "LL" + "M", "Chat" + "GPT"]


@pytest.mark.parametrize("word", MACHINE_PATHS + REGISTRY_HOSTS + OTHER_WORDS)
def test_the_project_speaks_of_itself_alone(word: str) -> None:
    found = []
    for path in tracked():
        # Facts about other machines are data, not text of the project.
        if "data" in path.relative_to(ROOT).parts or path.name == "LICENSE":
            continue
        text = text_of(path)
        if text is not None and re.search(rf"(?<![\w-]){re.escape(word)}", text):
            found.append(str(path.relative_to(ROOT)))
    assert not found


def test_no_leftovers_in_the_sources() -> None:
    marks = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]))
    found = [
        str(path) for path in tracked() if path.suffix in (".py", ".pxd", ".pyi") and marks.search(path.read_text())
    ]
    assert not found


def test_version_is_said_once() -> None:
    import kmem

    assert kmem.__version__ == PROJECT["project"]["version"]
    assert f"## {kmem.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_types_for_users(tmp_path: Path) -> None:
    """A user's script that leans on the types passes mypy --strict against the package's own annotations."""
    script = tmp_path / "user.py"
    script.write_text(
        "from pathlib import Path\n\n"
        "from kmem import KmemError, Machine\n"
        "from kmem.linux.gfp import GFP_KERNEL\n"
        "from kmem.machine.proc import read_proc_folder\n"
        "from kmem.profile import format_gfp, parse_gfp, profile_for\n"
        "from kmem.report.proc import format_proc\n"
        "from kmem.verify import Result, verify\n\n\n"
        "def report(path: Path) -> str:\n"
        "    try:\n"
        "        result: Result = verify(path)\n"
        "    except KmemError as error:\n"
        "        return str(error)\n"
        "    return result.summary()\n\n\n"
        "with Machine.boot('x86_64', ram='1G') as machine:\n"
        "    pfn: int | None = machine.alloc_pages(GFP_KERNEL, 2)\n"
        "mask: int = parse_gfp('GFP_KERNEL', profile_for('6.1'))\n"
        "print(format_gfp(mask), format_proc('buddyinfo', read_proc_folder(Path('.'))))\n"
    )
    assert (PACKAGE / "py.typed").exists()
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PATH": "/usr/bin:/bin", "MYPYPATH": str(ROOT / "src")},
    )
    assert "user.py" not in done.stdout, done.stdout
    assert "import-not-found" not in done.stdout, done.stdout


def test_build_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kind of build is refused before anything is compiled."""
    monkeypatch.setenv("KMEM_BUILD", "fast")
    with pytest.raises(SystemExit, match="KMEM_BUILD='fast'"):
        runpy.run_path(str(ROOT / "setup.py"))


@pytest.mark.parametrize(
    ("kind", "checked", "traced"),
    [("", False, False), ("release", False, False), ("test", True, False), ("trace", True, True)],
)
def test_kinds_of_build(kind: str, checked: bool, traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty is a release build; only a trace build traces lines."""
    asked: dict[str, Any] = {}

    def cythonize(modules: list[Any], **options: Any) -> list[Any]:
        asked.update(options, macros=[module.define_macros for module in modules])
        return modules

    monkeypatch.setenv("KMEM_BUILD", kind)
    monkeypatch.setattr("Cython.Build.cythonize", cythonize)
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    runpy.run_path(str(ROOT / "setup.py"))
    directives = asked["compiler_directives"]
    assert directives["boundscheck"] is checked
    assert directives.get("linetrace", False) is traced
    assert all(macros == ([("CYTHON_TRACE", "1")] if traced else []) for macros in asked["macros"])


def test_wheels_are_configured_for_every_supported_python() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    versions = {entry.rsplit(" ", 1)[1].replace(".", "") for entry in classifiers if "Python :: 3." in entry}
    assert {f"cp{version}-*" for version in versions} == set(PROJECT["tool"]["cibuildwheel"]["build"])
