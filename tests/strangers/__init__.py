"""Programs of users of the two protocols, as they were written long before this server, and what drives them."""
