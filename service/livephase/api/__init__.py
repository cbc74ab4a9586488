"""REST, WebSocket and the composition root that wires the service."""
