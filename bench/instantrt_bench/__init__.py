"""The runtime against the reference: latency, fidelity, identity."""

import instantrt  # noqa: F401 - it keeps libraries quiet, which must come before they are imported
