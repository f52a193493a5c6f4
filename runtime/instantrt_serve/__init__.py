"""Pictures over HTTP: one API process, and one engine worker process that owns the device."""
