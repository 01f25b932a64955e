"""The fakes are called as the real packages are: their signatures stand in the packages' own sources.

The table was read from wheels and checkouts (package_signatures.py says how). A package that is installed, or lies in
the folder FLOW3R_TEACHER_PACKAGES, is read again; none is ever imported.
"""

import importlib.util
import inspect
import json
import os
from pathlib import Path

import pytest
from fake_networks import FAKES
from huggingface_hub import PyTorchModelHubMixin
from package_signatures import TABLE, live_signature, reread

from flow3r.teacher.roma import V2

KNOWN = json.loads(TABLE.read_text(encoding="utf-8"))
# The fake has one model for what the package divides between a base class and its heirs.
ALIASES = {"UniFlowMatchModelsBase": "UniFlowMatchConfidence", "RAFT": "BaseModel"}


def found(module: object, name: str) -> object:
    owner, _, method = name.rpartition(".")
    if owner:
        known = owner if hasattr(module, owner) else ALIASES[owner]
        return getattr(getattr(module, known), method)
    return getattr(module, name)


@pytest.mark.parametrize("key", FAKES)
def test_fakes_have_the_signatures_of_the_real_packages(key):
    fake = FAKES[key](None, lambda flow: flow)
    signatures = [
        (name, said) for facts in KNOWN[fake.__name__]["files"].values() for name, said in facts["signatures"].items()
    ]
    assert signatures
    for name, said in signatures:
        assert live_signature(found(fake, name)) == said, name


def test_weights_of_ufm_are_loaded_as_hugging_face_loads_them():
    (first, *_) = inspect.signature(PyTorchModelHubMixin.from_pretrained).parameters
    (fakes, *_) = inspect.signature(FAKES["ufm"](None, None).UniFlowMatchConfidence.from_pretrained).parameters
    assert first == fakes


def test_the_weights_of_roma_v2_are_those_that_its_package_loads():
    assert V2 in KNOWN["romav2"]["files"]["romav2/romav2.py"]["words"]["RoMaV2.__init__"]


@pytest.mark.parametrize("module", KNOWN)
def test_an_installed_package_still_says_what_the_table_says(module):
    top = module.split(".")[0]
    folder = os.environ.get("FLOW3R_TEACHER_PACKAGES", "")
    if not folder or not (Path(folder) / top).is_dir():
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"{top} is not installed, nor in FLOW3R_TEACHER_PACKAGES")
        folder = Path(spec.submodule_search_locations[0]).parent
    for file, facts in KNOWN[module]["files"].items():
        assert reread((Path(folder) / file).read_text(encoding="utf-8"), facts) == facts, file
