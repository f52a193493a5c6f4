"""Pictures over HTTP: one API process, and one engine worker process that owns the device."""

import instantrt  # noqa: F401 - it keeps libraries quiet, which must come before they are imported
