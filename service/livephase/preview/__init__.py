"""Preview: what a viewer sees, and the only crossing between threads and the event loop."""
