"""Fill the tables and figures of documentation and README from studies/results; with --check only compare.

Usage: python tools/study_docs.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from anatrust.studies.tables import update_docs


def main() -> int:
    """Exit 1 if --check finds a page or figure that the results would change."""
    root = Path(__file__).parents[1]
    check = "--check" in sys.argv[1:]
    changed = update_docs(root / "studies" / "results", root / "docs", also=[root / "README.md"], check=check)
    for name in changed:
        print(("differs from studies/results: " if check else "written: ") + str(Path(name).relative_to(root)))
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
