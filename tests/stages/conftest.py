"""What the stages' tests share: runs with planted latents."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if "sparserm_planted" not in sys.modules:
    spec = spec_from_file_location("sparserm_planted", Path(__file__).parents[1] / "study" / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["sparserm_planted"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["sparserm_planted"])
