"""`python -m instantrt.cli`."""

from instantrt.cli import main

raise SystemExit(main())
