"""Plan every recipe for every card, write what came out, and make the tables of examples/recipes/README.md from it.

  python -m benchmarks.recipes            plan, and write the tables
  python -m benchmarks.recipes --table    only the tables, from the result file

No card is needed and nothing is downloaded: a plan is arithmetic on the base's sizes (`benchmarks/recipes/bases.py`).
"""

import argparse
import json

from benchmarks.recipes.planning import HOST_MEMORY, all_planned
from benchmarks.recipes.table import PAGE, write_tables
from benchmarks.results import RESULTS
from quatrain import __version__

FILE = RESULTS / "recipes.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", action="store_true", help="only make the tables")
    if not parser.parse_args().table:
        rows = []
        for row in all_planned():
            rows.append(row)
            print(f"{row['recipe']} on {row['gpu']} {row['memory'] or ''}: {row.get('hours', 'refused')}", flush=True)
        content = {
            "case": "recipes",
            "title": "Recipes as `quatrain plan` plans them",
            "host_memory": HOST_MEMORY,
            "versions": {"quatrain": __version__},
            "rows": rows,
        }
        FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_tables(json.loads(FILE.read_text(encoding="utf-8")), PAGE)


if __name__ == "__main__":
    main()
