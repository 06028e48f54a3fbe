"""`docs/faults.md` names tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_test_named_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (HERE.parent / "docs" / "faults.md").read_text())
    assert len(named) > 50
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (HERE / file).read_text()]
    assert not missing
