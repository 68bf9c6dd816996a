"""HTTP and WebSocket: routes, who may ask for what, and the player page."""
