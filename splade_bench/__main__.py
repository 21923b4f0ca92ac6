"""``python -m splade_bench`` is ``splade-bench``."""

from splade_bench.cli import main

raise SystemExit(main())
