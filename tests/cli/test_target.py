from __future__ import annotations

import re

import pytest
import torch

import headwater as hw
from headwater.cli.errors import CommandError
from headwater.cli.target import load_problem


@pytest.mark.parametrize("target", ["factories.py:healthy", "./factories.py:healthy", "pkg.inner:healthy"])
def test_a_file_and_a_module_of_the_current_folder_give_the_problem_of_their_factory(folder, target):
    assert isinstance(load_problem(target), hw.Problem)


def test_an_absolute_path_works(folder):
    assert isinstance(load_problem(f"{folder / 'factories.py'}:healthy"), hw.Problem)


def test_a_problem_instead_of_a_factory_is_accepted(folder):
    assert isinstance(load_problem("factories.py:instance"), hw.Problem)


def test_the_same_seed_builds_the_same_model(folder):
    first, again, other = (load_problem("factories.py:healthy", seed=seed).model.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_file_may_import_its_neighbours_and_use_dataclasses(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "pkg_neighbour.py").write_text("import factories\n")
    (folder / "sub" / "factories.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "import torch, headwater as hw, neighbour\n@dataclass\nclass Config:\n    width: int = 2\n"
        "def problem():\n    return hw.Problem(torch.nn.Linear(Config().width, 1), torch.ones(1, 2))\n"
    )
    (folder / "sub" / "neighbour.py").touch()
    assert isinstance(load_problem("sub/factories.py:problem"), hw.Problem)


def test_a_file_named_like_a_loaded_module_does_not_replace_it(folder):
    (folder / "torch.py").write_text("from headwater import Problem\nfrom factories import healthy as problem\n")
    assert isinstance(load_problem("torch.py:problem"), hw.Problem)
    assert torch.Tensor is not None


SENTENCES = {
    "nocolon": "expected pkg.module:factory or path/to/file.py:factory, .* got 'nocolon'; .* 'nocolon:make_problem'",
    ":": "expected pkg.module:factory or path/to/file.py:factory, .* got ':'",
    "factories.py": "name the function too, as in .factories.py:make_problem'",
    "factoris.py:healthy": "there is no file 'factoris.py'; did you mean factories.py?",
    "no/such/folder/file.py:healthy": "there is no file 'no/such/folder/file.py'",
    "nosuchpackage:healthy": "there is no module 'nosuchpackage' in the current folder or among the installed",
    "pkg.nosuch:healthy": "there is no module 'pkg.nosuch'",
    ".inner:healthy": "there is no module '.inner'",
    "factories.healthy:x": "there is no module 'factories.healthy'",
    "factories.py:helthy": "'factories.py' has no function 'helthy'; did you mean healthy?",
    "factories.py:zzz": "'factories.py' has no function 'zzz'",
    "factories.py:raises": r"the factory 'raises' failed: ValueError: the data are gone$",
    "factories.py:exits": "the factory 'exits' failed: SystemExit: usage: train.py",
    "factories.py:nothing": "expected 'nothing' to give a headwater.Problem, got None; is there a return statement",
    "factories.py:bare_model": "got an object of type Linear; a model alone does not say what to run it on",
    "factories.py:number": "expected 'number' to give a headwater.Problem, got an object of type int",
    "factories.py:with_arguments": "expected the factory 'with_arguments' .* without arguments, it takes path;",
    "factories.py:without_parameters": "the model ReLU has no parameters",
}


@pytest.mark.parametrize("target", SENTENCES)
def test_what_is_not_a_target_gets_one_sentence(folder, target):
    with pytest.raises(CommandError) as caught:
        load_problem(target)
    assert re.search(SENTENCES[target], str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_factory_for_a_missing_cuda_device_is_told_to_build_on_the_cpu(folder):
    with pytest.raises(
        CommandError, match=r"asks for a CUDA device, and torch \S+ finds none here; build it on the CPU"
    ):
        load_problem("factories.py:on_cuda")


def test_a_module_that_misses_a_dependency_names_the_dependency(folder):
    (folder / "missing_dependency.py").write_text("import nosuchdependency\n")
    for target in ("missing_dependency:problem", "missing_dependency.py:problem"):
        with pytest.raises(CommandError, match="failed: ModuleNotFoundError: No module named 'nosuchdependency'"):
            load_problem(target)


def test_a_module_with_a_syntax_error_says_so(folder):
    (folder / "broken.py").write_text("def problem(:\n")
    with pytest.raises(CommandError, match=r"importing 'broken\.py' failed: SyntaxError"):
        load_problem("broken.py:problem")


def test_ctrl_c_in_a_factory_is_not_swallowed(folder):
    with pytest.raises(KeyboardInterrupt):
        load_problem("factories.py:interrupted")
