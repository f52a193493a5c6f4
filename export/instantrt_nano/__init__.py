"""The nano checkpoint: InstantID's module classes at a size that runs anywhere, for tests and demos."""

import instantrt  # noqa: F401 - it keeps libraries quiet, which must come before they are imported
