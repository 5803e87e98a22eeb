"""The port: listener, opening handshake, HTTP routes, and the life of the server around them."""
